"""End to end: train, export, deploy the folder over DDS against the emulated robot in another process, and see it walk as commanded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rfx
from go2_wire import ROOT, EmulatorProcess
from rfx.robots.go2 import Go2, SafetyLimits
from rfx.robots.go2.log import Recording
from rfx.robots.go2.replay import recompute
from rfx.session import Session

pytest.importorskip("cyclonedds", reason="needs the extra go2")
SETTLE_S = 1.0  # after a change of command, before errors count: as in train/judge/evaluation.py


def train(folder: Path, *overrides: str) -> Path:
    """Train into folder, as a user does. Returns the policy folder."""
    subprocess.run([sys.executable, "-m", "train", "+robot=go2", f"hydra.run.dir={folder}", *overrides], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)
    return folder / "policy"


def base_velocity(pose: dict) -> np.ndarray:
    """vx, vy (m/s) and yaw rate (rad/s) in the base frame, from the emulator's own state."""
    w, x, y, z = pose["quaternion"]
    forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    left = np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    return np.array([forward @ pose["velocity"], left @ pose["velocity"], pose["angular_velocity"][2]])


def drive(policy: Path, commands: list[tuple[float, tuple[float, float, float]]], log_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Walk the robot behind DDS through commands of (seconds, velocity). Returns wanted and measured velocity, (T, 3) each, where settled."""
    wanted, measured = [], []
    with EmulatorProcess() as emulator, Go2(domain=emulator.domain, limits=SafetyLimits(damping_s=0.3), log_path=log_path) as robot:
        session = Session(robot, rfx.load_policy(policy, robot.config))
        robot.command(*commands[0][1])
        session.start()
        while session.is_running and session.step_count == 0:
            time.sleep(0.01)
        due = time.monotonic()
        for seconds, command in commands:
            robot.command(*command)
            for step in range(round(seconds / 0.02)):
                due += 0.02
                time.sleep(max(0.0, due - time.monotonic()))
                pose = emulator.ask("pose")
                if step * 0.02 >= SETTLE_S:
                    wanted.append(command), measured.append(base_velocity(pose))
        session.stop()
        print(session.stats, "LowState to LowCmd (s)", robot.latency_s())
    return np.array(wanted), np.array(measured)


def test_train_export_deploy(tmp_path):
    """A folder that training exported, as it is, runs over DDS: a moment of training, then a second on the robot behind the wire."""
    policy = train(tmp_path / "run", "trainer.total_steps=6144", "env.num_envs=64", "trainer.final_evaluation_envs=2",
                   "trainer.final_evaluation_s=0.1")
    _, measured = drive(policy, [(2.0, (0.3, 0.0, 0.0))], tmp_path / "log.jsonl")
    assert len(measured) == 50 and np.isfinite(measured).all()
    recording = Recording.load(tmp_path / "log.jsonl")
    assert recording.reason == "closed" and "POLICY" in recording.phase
    assert float(recompute(recording, str(policy)).rpartition(" ")[2]) < 1e-5, "the robot was sent what the policy decides"


@pytest.mark.long
def test_the_base_moves_as_commanded(tmp_path):
    """Two million steps of training: forward, back and a turn are told apart over DDS."""
    policy = train(tmp_path / "run", "trainer.total_steps=2000000", "env.num_envs=256")
    for axis, command in ((0, (0.5, 0.0, 0.0)), (0, (-0.5, 0.0, 0.0)), (2, (0.0, 0.0, 0.6))):
        _, measured = drive(policy, [(5.0, command)], tmp_path / "log.jsonl")
        assert measured[:, axis].mean() == pytest.approx(command[axis], abs=0.3)


@pytest.mark.long
def test_a_trained_policy_walks_behind_dds_as_well_as_in_its_evaluation(tmp_path):
    """20 s of random commands; each velocity error within 1.5 times that of the run's own evaluation.

    RFX_RUN names the folder of a finished run; without it, one is trained.
    """
    run = Path(os.environ["RFX_RUN"]) if "RFX_RUN" in os.environ else tmp_path / "run"
    if not (run / "policy").is_dir():
        train(run, "trainer.total_steps=3000000")
    evaluation = json.loads((run / "evaluation.json").read_text())
    rng = np.random.default_rng(20)
    commands = [(5.0, (rng.uniform(-0.6, 1.0), rng.uniform(-0.4, 0.4), rng.uniform(-0.8, 0.8))) for _ in range(4)]
    wanted, measured = drive(run / "policy", commands, tmp_path / "log.jsonl")
    errors = np.abs(measured - wanted).mean(axis=0)
    for name, error in zip(("error_vx", "error_vy", "error_yaw_rate"), errors):
        print(f"{name}: {error:.3f} behind DDS, {evaluation[name]:.3f} in the evaluation")
        assert error <= 1.5 * evaluation[name]
