"""The emulated robot over its topics, in virtual time: what it reports and obeys, and what its own controller does."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.sim import Physics

pytest.importorskip("cyclonedds", reason="needs the extra go2")
from virtual_go2 import VirtualGo2  # noqa: E402

from rfx.drivers.go2.emulator.emulator import carry_out  # noqa: E402
from rfx.drivers.go2.sender.switcher import (
    RELEASE_MODE,
    SELECT_MODE,
    SWITCHER,
    Service,
    active_mode,  # noqa: E402
    release_sport_controller,
)
from rfx.drivers.go2.wire import messages, remote  # noqa: E402
from rfx.drivers.go2.wire.bus import LOW_CMD, LOW_STATE  # noqa: E402
from rfx.drivers.go2.wire.idl import LowCmd_, LowState_  # noqa: E402


@pytest.fixture
def bench(tmp_path):
    with VirtualGo2(tmp_path, sport=True) as bench:
        yield bench


@pytest.fixture
def bus(bench):
    return bench.network.bus(bench.clock.test)


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


def test_low_state_at_500_hz(bench, bus):
    reader = bus.reader(LOW_STATE, LowState_, depth=2000)
    bench.clock.sleep(1.001)
    samples = reader.take(2000)
    record = samples[-1].record
    assert len(samples) == 500 and record["tick"] - samples[0].record["tick"] == 2 * 499
    assert all(messages.is_intact(sample.record) and sample.record["crc"] for sample in samples)
    pose = bench.ask("pose")
    np.testing.assert_allclose(record["motor_state"]["q"][:12], pose["joints"], atol=1e-6)
    np.testing.assert_allclose(record["imu_state"]["quaternion"], pose["quaternion"], atol=1e-6)
    assert record["imu_state"]["accelerometer"][2] == pytest.approx(9.81, abs=0.5)


def test_sticks_and_buttons_are_reported(bench, bus):
    reader = bus.reader(LOW_STATE, LowState_)
    bench.ask("sticks ly=0.5 lx=-0.25")
    bench.clock.sleep(0.003)
    assert remote.sticks(reader.take(1)[0].record["wireless_remote"].tobytes())[:2] == pytest.approx(
        (0.457, 0.185), abs=1e-3
    )
    bench.ask("press L2 B")
    bench.clock.sleep(0.003)
    assert remote.buttons(reader.take(1)[0].record["wireless_remote"].tobytes()) == remote.EMERGENCY


def test_switcher_releases_and_selects(bench, bus):
    others = bus.reader(LOW_CMD, LowCmd_, others_only=True)
    switcher = Service(bus, SWITCHER, bench.clock)
    assert switcher.wait(1.0, lambda: None) and active_mode(switcher) == "normal" and others.take(1)
    switcher.call(RELEASE_MODE)
    assert active_mode(switcher) == "" and not others.get_matched_publications()
    switcher.call(SELECT_MODE)
    assert active_mode(switcher) == "normal"
    with pytest.raises(RuntimeError, match="refused request 4711 with status 3203"):
        switcher.call(4711)
    rests = []
    assert release_sport_controller(bus, bench.clock, lambda sport: rests.append(bench.ask("pose")["mode"])) == "normal"
    assert rests == ["normal"] and bench.ask("pose")["mode"] == ""  # it came to rest before it was released
    assert release_sport_controller(bus, bench.clock, lambda sport: pytest.fail("nothing is active")) == ""


def test_no_answer_is_told(bench, bus):
    service, begun_s = Service(bus, "nobody", bench.clock), bench.clock.now()
    with pytest.raises(TimeoutError, match="nobody service did not answer request 1001"):
        service.call(1001, timeout_s=0.1)
    assert bench.clock.now() - begun_s == pytest.approx(0.1, abs=0.006)


def test_it_obeys_only_what_is_intact_and_for_motors_that_are_on(bench, bus):
    bench.ask("again released")
    bench.clock.sleep(0.5)  # its legs sag a little
    writer, record = bus.writer(LOW_CMD, LowCmd_), messages.new_low_cmd()
    motors = record["motor_cmd"][:12]
    lying = np.array(bench.ask("pose")["joints"], np.float32)
    motors["q"], motors["dq"], motors["kp"], motors["kd"] = lying, 0.0, 40.0, 2.0
    motors["q"][0] += 0.4
    motors["mode"][3], motors["q"][3] = 0, lying[3] - 0.4  # off: it stays
    record["crc"] = 12345
    writer.write(LowCmd_(record))
    bench.clock.sleep(0.3)
    assert bench.ask("pose")["joints"][0] == pytest.approx(lying[0], abs=0.02)
    messages.seal(record)
    writer.write(LowCmd_(record))  # once: it does whatever the last command said
    bench.clock.sleep(0.5)
    after = bench.ask("pose")["joints"]
    assert after[0] > lying[0] + 0.2, "it moves, against what the floor holds"
    assert abs(after[3] - lying[3]) < 0.2 and abs(after[1] - lying[1]) < 0.25


def test_commands_are_answered(bench):
    assert json.loads(json.dumps(carry_out(bench.emulator, "pose")))["mode"] == "normal"
    assert "unknown command 'fly'" in carry_out(bench.emulator, "fly")["error"]
    assert "error" in carry_out(bench.emulator, "press Z")
