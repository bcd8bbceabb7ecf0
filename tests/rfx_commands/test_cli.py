"""The command line, as a user types it."""

import io
import os
import signal
import sys

import numpy as np
import pytest
from virtual_deploy import deploy_in_virtual_time

from rfx.commands.cli import main
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.policy.folder import local_folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder of a small network that nobody trained."""
    from rfx.nn import go2_mlp

    return str(
        go2_mlp([32]).save(
            tmp_path_factory.mktemp("policy") / "p", robot_config=GO2_CONFIG, training_info={"total_steps": 7}
        )
    )


@pytest.fixture(scope="module")
def trained_policy(tmp_path_factory):
    """In a run's folder, by which it is called, as training leaves it: with the commands that it learned."""
    from rfx.nn import go2_mlp

    info = {"env": {"commands": {"uniform_velocity": {"vx": [-0.6, 1.0], "vy": [0.1, 0.4], "zero_share": 0.1}}}}
    folder = tmp_path_factory.mktemp("run")
    go2_mlp([32]).save(folder / "policy", robot_config=GO2_CONFIG, training_info=info)
    return str(folder)


@pytest.fixture(scope="module")
def other_policy(tmp_path_factory):
    """One that was made for gains that a Go2 is too soft with."""
    import dataclasses

    from rfx.nn import go2_mlp

    joints = tuple(dataclasses.replace(joint, kp=10.0) for joint in GO2_CONFIG.joints)
    return str(
        go2_mlp([32]).save(
            tmp_path_factory.mktemp("other") / "p", robot_config=dataclasses.replace(GO2_CONFIG, joints=joints)
        )
    )


def test_inspect(policy, capsys):
    assert main(["inspect", policy]) == 0
    out = capsys.readouterr().out
    assert "MLP, 1,964 weights" in out  # 48 x 32 + 32 + 32 x 12 + 12
    assert "robot: go2, 12 joints, 50 Hz, action scale 0.5 to 0.5 rad" in out
    assert "joint_position, joint_velocity" in out and "training total_steps: 7" in out


@pytest.mark.parametrize("robot", ["mock", "sim"])
def test_deploy(policy, robot, capsys):
    deploy_in_virtual_time(policy, "--robot", robot, "--duration", "0.2", "--vx", "0.3")
    assert capsys.readouterr().out.startswith("10 steps, 0 overruns, period 20.00 ms, jitter p50 0.00, ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inspect", "/nowhere"], "rfx inspect: got /nowhere"),
        (["deploy", "/nowhere"], "rfx deploy: got /nowhere"),
        (["deploy", "{policy}", "--robot", "go1"], "unknown robot 'go1': did you mean 'go2'?"),
        (
            ["deploy", "{policy}", "--viewer", "--robot", "mock"],
            "got --viewer with --robot mock, which has no such option",
        ),
        (
            ["deploy", "{policy}", "--interface", "eth0", "--restore", "--log", "x"],
            "got --interface, --log, --restore with --robot sim, which",
        ),
        (["deploy", "{policy}", "--velocity", "remote"], "--robot sim, which has no remote control"),
        (
            ["deploy", "{policy}", "--velocity", "keyboard", "--vx", "1"],
            "got --vx with --velocity keyboard; expected one or the other",
        ),
        (["deploy", "{policy}", "--duration", "0"], "got --duration 0; expected more than 0"),
        (["deploy", "{policy}", "--robot", "go2"], "got no --interface, and none of this computer's leads to a robot"),
        (
            ["deploy", "{other}", "--robot", "go2", "--interface", "lo"],
            "FR_hip_joint kp is 10, allowed are 17.5 to 52.5",
        ),
        (["deploy", "{policy}", "--vx", "nan"], "expected finite numbers"),
        (
            ["deploy", "{policy}", "--robot", "go2", "--interface", "eth9", "--no-motion-switcher"],
            "must be released first",
        ),
        (["deploy", "{trained}", "--vx", "5"], "got --vx 5; expected -0.6 to 1"),
        (["deploy", "{trained}", "--robot", "mock", "--vy", "-0.1"], "got --vy -0.1; expected 0.1 to 0.4"),
        (["replay", "/nowhere"], "rfx replay: no log at /nowhere"),
        (["replay", "{policy}/rfx_config.json"], "is no rfx Go2 log"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments, message, policy, other_policy, trained_policy, capsys):
    assert (
        main([argument.format(policy=policy, other=other_policy, trained=trained_policy) for argument in arguments])
        == 1
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_runs_folder_means_the_policy_inside(trained_policy, capsys):
    assert (
        main(["inspect", trained_policy]) == 0
        and main(["deploy", trained_policy, "--robot", "mock", "--duration", "0.1", "--vx", "1"]) == 0
    )
    assert "robot: go2, 12 joints" in capsys.readouterr().out
    assert local_folder(trained_policy) == local_folder(f"{trained_policy}/policy")


@pytest.mark.parametrize(
    "command", [["deploy", "{policy}", "--viewer"], ["emulate-go2", "--viewer"], ["replay", "/nowhere", "--viewer"]]
)
def test_a_window_without_a_screen_is_refused_before_anything_begins(command, policy, capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("rfx.system.screen.sys.platform", "linux")
    assert main([word.format(policy=policy) for word in command]) == 1
    error = capsys.readouterr().err
    assert "--viewer" in error and "no screen" in error and error.count("\n") == 1


def test_a_second_signal_while_a_command_ends_changes_nothing(monkeypatch, capsys):
    """As of one who presses Ctrl-C again and again while a policy is loading: the second comes while the first is
    told.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupted(path):
        raise KeyboardInterrupt

    class Impatient(io.StringIO):
        def write(self, text):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            return super().write(text)

    monkeypatch.setattr("rfx.loading.loaded_policy.load_policy", interrupted)
    monkeypatch.setattr(sys, "stderr", Impatient())
    try:
        assert main(["deploy", "anything"]) == 0
        assert sys.stderr.getvalue() == "interrupted\n"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_policy_that_fails_ends_it(policy, monkeypatch):
    monkeypatch.setattr(
        "rfx.loading.loaded_policy.LoadedPolicy.__call__", lambda self, observation: np.full((1, 12), np.nan)
    )
    with pytest.raises(RuntimeError, match="after 0 steps, .*not finite"):
        deploy_in_virtual_time(policy, "--duration", "1", "--vx", "0")


def test_no_such_interface(policy, capfd):
    assert main(["deploy", policy, "--robot", "go2", "--interface", "eth9"]) == 1
    error = capfd.readouterr().err
    assert "rfx deploy: no Go2 in DDS domain 0 on 'eth9': cannot join DDS domain 0 on network interface 'eth9'" in error
    assert "Traceback" not in error


def test_interfaces(capsys, monkeypatch):
    """The wired one of the robot's network is the one; without --interface it is taken only when there is no other."""
    from rfx.drivers.go2.wire import interfaces as module

    addresses = {"lo": "127.0.0.1", "wlan0": "192.168.123.5", "eth0": None, "eth1": "192.168.123.222"}
    kinds = {"lo": "loopback", "wlan0": "wireless"}
    monkeypatch.setattr(module.socket, "if_nameindex", lambda: list(enumerate(addresses)))
    monkeypatch.setattr(module, "_address", addresses.get)
    monkeypatch.setattr(module, "_kind", lambda name: kinds.get(name, "wired"))
    assert main(["interfaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("eth1 ") and lines[0].endswith("leads to the robot")
    assert sum("leads to the robot" in line for line in lines) == 1 and any(
        "wlan0" in line and "use the cable" in line for line in lines
    )
    assert module.robot_interface() == "eth1"
    addresses["eth0"] = "192.168.123.99"
    with pytest.raises(ValueError, match="2 of this computer's leads to a robot"):
        module.robot_interface()


def test_keyboard_deploy_needs_a_terminal(policy, capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["deploy", policy, "--velocity", "keyboard"]) == 1
    assert "needs a terminal" in capsys.readouterr().err
