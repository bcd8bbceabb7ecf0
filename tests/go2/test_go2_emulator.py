"""The emulated robot over its real topics: what it reports, what it obeys, and what its own controller does."""

import time

import numpy as np
import pytest
from go2_wire import EmulatorProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.sim import Physics

pytest.importorskip("cyclonedds", reason="needs the extra go2")
from rfx.drivers.go2.sender.switcher import (  # noqa: E402
    RELEASE_MODE,
    SELECT_MODE,
    SWITCHER,
    Service,
    active_mode,
    release_sport_controller,
)
from rfx.drivers.go2.wire import messages, remote  # noqa: E402
from rfx.drivers.go2.wire.bus import LOW_CMD, LOW_STATE, Bus  # noqa: E402
from rfx.drivers.go2.wire.idl import LowCmd_, LowState_  # noqa: E402


@pytest.fixture(scope="module")
def emulator():
    with EmulatorProcess() as process:
        yield process


@pytest.fixture(scope="module")
def bus(emulator):
    return Bus(emulator.domain, "lo")


def wait(condition, timeout_s=3.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def fleet(value: float, spread: float = 0.0):
    return (
        arrays(np.float64, 12, elements=st.floats(-value, value))
        if not spread
        else arrays(np.float64, 12, elements=st.floats(0.0, spread))
    )


@settings(max_examples=50, deadline=None)
@given(fleet(3.0), fleet(20.0), fleet(20.0), fleet(0.0, 80.0), fleet(0.0, 8.0))
def test_motors_obey_the_torque_law(position, velocity, torque, kp, kd):
    """tau + kp (q_des - q) + kd (dq_des - dq), cut at the motor's limit."""
    physics = Physics(GO2_CONFIG, timestep_s=0.002)
    physics.step(5)
    q, dq = physics.joint_position.copy(), physics.joint_velocity.copy()
    physics.set_motors(position, velocity=velocity, torque=torque, kp=kp, kd=kd)
    physics.step()
    limit = GO2_CONFIG.joint_array("max_torque_nm")
    np.testing.assert_allclose(
        physics.joint_torque, np.clip(torque + kp * (position - q) + kd * (velocity - dq), -limit, limit), atol=1e-6
    )


def test_low_state_at_500_hz(emulator, bus):
    emulator.ask("again")
    reader = bus.reader(LOW_STATE, LowState_, depth=2000)
    time.sleep(0.3)
    reader.take(2000)
    time.sleep(1.0)
    samples = [sample for sample in reader.take(2000) if hasattr(sample, "record")]
    assert 470 <= len(samples) <= 530
    record = samples[-1].record
    assert messages.is_intact(record) and record["crc"] != 0
    assert record["tick"] - samples[0].record["tick"] == 2 * (len(samples) - 1)
    pose = emulator.ask("pose")
    np.testing.assert_allclose(record["motor_state"]["q"][:12], pose["joints"], atol=0.02)
    np.testing.assert_allclose(record["imu_state"]["quaternion"], pose["quaternion"], atol=0.02)
    assert record["imu_state"]["accelerometer"][2] == pytest.approx(9.81, abs=0.5)


def test_sticks_and_buttons_are_reported(emulator, bus):
    emulator.ask("again")
    reader = bus.reader(LOW_STATE, LowState_)
    emulator.ask("sticks ly=0.5 lx=-0.25")
    wait(
        lambda: [
            s
            for s in reader.take(1)
            if remote.sticks(s.record["wireless_remote"].tobytes())[:2] == pytest.approx((0.457, 0.185), abs=1e-3)
        ]
    )
    emulator.ask("press L2 B")
    wait(
        lambda: [s for s in reader.take(1) if remote.buttons(s.record["wireless_remote"].tobytes()) == remote.EMERGENCY]
    )


def test_switcher_releases_and_selects(emulator, bus):
    emulator.ask("again")
    others = bus.reader(LOW_CMD, LowCmd_, others_only=True)
    switcher = Service(bus, SWITCHER)
    wait(switcher.is_there)
    assert active_mode(switcher) == "normal"
    wait(lambda: others.take(1))
    switcher.call(RELEASE_MODE)
    assert active_mode(switcher) == ""
    wait(lambda: not others.get_matched_publications())
    switcher.call(SELECT_MODE)
    assert active_mode(switcher) == "normal"
    with pytest.raises(RuntimeError, match="refused request 4711 with status 3203"):
        switcher.call(4711)
    rests = []
    assert release_sport_controller(bus, lambda sport: rests.append(emulator.ask("pose")["mode"])) == "normal"
    assert rests == ["normal"] and emulator.ask("pose")["mode"] == ""  # it came to rest before it was released
    assert release_sport_controller(bus, lambda sport: pytest.fail("nothing is active")) == ""


def test_no_answer_is_told(emulator, bus):
    emulator.ask("again")
    with pytest.raises(TimeoutError, match="motion_switcher service did not answer request 1001"):
        service = Service(bus, SWITCHER)
        service._requests = bus.writer("rt/api/nobody/request", service._requests.data_type)
        service.call(1001, timeout_s=0.1)


def send(bus, writer, record, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        writer.write(LowCmd_(record))
        time.sleep(0.005)


def test_it_obeys_only_what_is_intact_and_for_motors_that_are_on(emulator, bus):
    emulator.ask("again released")
    writer = bus.writer(LOW_CMD, LowCmd_)
    record = messages.new_low_cmd()
    motors = record["motor_cmd"][:12]
    lying = np.array(emulator.ask("pose")["joints"], np.float32)
    motors["q"], motors["dq"], motors["kp"], motors["kd"] = lying, 0.0, 40.0, 2.0
    motors["q"][0] += 0.4
    motors["mode"][3], motors["q"][3] = 0, lying[3] - 0.4  # off: it stays
    record["crc"] = 12345
    send(bus, writer, record, 0.3)
    assert emulator.ask("pose")["joints"][0] == pytest.approx(lying[0], abs=0.1)
    messages.seal(record)
    send(bus, writer, record, 0.5)
    after = emulator.ask("pose")["joints"]
    assert after[0] == pytest.approx(lying[0] + 0.4, abs=0.15)
    assert abs(after[3] - lying[3]) < 0.2
    assert after[1] == pytest.approx(lying[1], abs=0.25)


def test_wrong_commands_are_answered(emulator):
    emulator.process.stdin.write("fly\npress Z\n")
    emulator.process.stdin.flush()
    import json

    assert "unknown command 'fly'" in json.loads(emulator.process.stdout.readline())["error"]
    assert "error" in json.loads(emulator.process.stdout.readline())
