"""Checks of a Go2 and this computer before the robot moves; each prints one line that says how to mend a fault.

Nothing is commanded; the motion switcher is asked for its mode.
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.log import default_path
from rfx.drivers.go2.rules.pose import adopt, unfolded_legs
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.go2.wire import messages
from rfx.drivers.go2.wire.bus import LOOPBACK, LOW_CMD, LOW_STATE, Bus
from rfx.drivers.go2.wire.interfaces import ROBOT_ADDRESS, interfaces
from rfx.drivers.realtime import WALL_CLOCK, Clock, realtime_priority
from rfx.system.extras import install_command

LISTEN_S = 1.5
STATE_HZ = 500.0  # rate of a Go2's reports
FREE_BYTES = 500_000_000  # free disk space for the log
WARM_C = 60
OK, NOTE, FAULT = "ok", "note", "FAULT"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: its result, its name, what was found, and what to do about it."""

    mark: str  # OK, NOTE (not required), FAULT
    name: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.mark:5} {self.name}: {self.found}" + (f". {self.mend}" if self.mend and self.mark != OK else "")


def run(
    interface: str,
    domain: int,
    policy: str | None = None,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> bool:
    """Run all checks and call say with each finding. Returns whether there was no fault."""
    good = True
    for finding in check(interface, domain, policy):
        say(str(finding))
        good = good and finding.mark != FAULT
    return good


def check(interface: str, domain: int, policy: str | None = None) -> Iterator[Finding]:
    """Yield all findings: first about this computer, then about the robot, as far as the robot answers."""
    yield _real_time()
    yield _disk()
    if policy is not None:
        yield _policy(policy)
    yield _interface(interface)
    if importlib.util.find_spec("cyclonedds") is None:
        yield Finding(mark=FAULT, name="cyclonedds", found="not installed", mend=install_command("go2"))
        return
    from rfx.drivers.go2.wire.dds import DdsBus

    try:
        bus = DdsBus(domain, interface)
    except ConnectionError as error:
        yield Finding(mark=FAULT, name="DDS", found=str(error), mend="See `rfx interfaces`")
        return
    yield from check_robot(bus, interface, domain, WALL_CLOCK)


def check_robot(bus: Bus, interface: str, domain: int, clock: Clock) -> Iterator[Finding]:
    """Yield all findings about the robot, as far as the robot answers on the bus."""
    from rfx.drivers.go2.wire.idl import LowCmd_

    commands = bus.reader(LOW_CMD, LowCmd_, depth=100)
    states, num_damaged = _listen(bus, clock, simulator=interface == LOOPBACK)
    others = len(bus.participants()) - 1
    yield Finding(
        mark=OK if others else FAULT,
        name="participants",
        found=f"{others} others in DDS domain {domain} on {interface}",
        mend=f"Is the robot on, and does it answer `ping {ROBOT_ADDRESS}`?",
    )
    yield from _low_state(states, num_damaged)
    yield _publishers(bus, commands)
    yield from _services(bus, clock)


def _real_time() -> Finding:
    with realtime_priority(1) as permitted:
        pass
    return Finding(
        mark=OK if permitted else NOTE,
        name="real-time priority",
        found="permitted" if permitted else "not permitted: steps may come late",
        mend=f"Put `{getpass.getuser()} - rtprio 50` and `{getpass.getuser()} - memlock unlimited` into /etc/security/limits.d/rfx.conf, "
        "and log in again",
    )


def _disk() -> Finding:
    folder = default_path().parent
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    good = free > FREE_BYTES and os.access(existing, os.W_OK)
    return Finding(
        mark=OK if good else NOTE,
        name="log",
        found=f"{folder}, {free / 1e9:.1f} GB free",
        mend="Free some, or say --log elsewhere",
    )


def _policy(path: str) -> Finding:
    from rfx.policy.folder import inspect_policy

    try:
        info = inspect_policy(path)
        if info.robot_config is None:
            raise ValueError("it does not say which robot it is for")
        config = adopt(info.robot_config)
    except (OSError, ValueError) as error:
        return Finding(mark=FAULT, name="policy", found=str(error), mend="Train or choose one for this robot")
    gains = ", ".join(
        f"{name} {' to '.join(f'{value:g}' for value in sorted({config.joint_array(name).min(), config.joint_array(name).max()}))}"
        for name in ("kp", "kd")
    )
    return Finding(
        mark=OK, name="policy", found=f"{info.policy_type} for {config.name}, {config.control_freq_hz:g} Hz, {gains}"
    )


def _interface(name: str) -> Finding:
    found = next((interface for interface in interfaces() if interface.name == name), None)
    if found is None:
        return Finding(mark=FAULT, name="interface", found=f"{name} is not there", mend="See `rfx interfaces`")
    if found.kind == "loopback":
        return Finding(mark=NOTE, name="interface", found=f"{name}, on which there are only simulators")
    good = found.is_up and found.leads_to_robot and found.kind == "wired"
    return Finding(
        mark=OK if good else FAULT if not found.is_up else NOTE,
        name="interface",
        found=" ".join(found.describe().split()),
    )


def _listen(bus: Bus, clock: Clock, simulator: bool) -> tuple[list[Any], int]:
    """Listen for a while, and return the intact LowStates and the number of damaged ones."""
    from rfx.drivers.go2.wire.idl import LowState_

    reader, states, num_damaged = bus.reader(LOW_STATE, LowState_, depth=2000), [], 0
    until_s, met = clock.now() + 2.0 * LISTEN_S, False
    while clock.now() < until_s:
        for sample in reader.take(2000):
            if hasattr(sample, "record"):
                intact = messages.is_intact(sample.record, may_lack_crc=simulator)
                states += [sample] * intact
                num_damaged += not intact
        if not met and (states or num_damaged):
            until_s, met = clock.now() + LISTEN_S, True
        clock.sleep(0.01)
    return states, num_damaged


def _low_state(samples: list[Any], num_damaged: int) -> Iterator[Finding]:
    if not samples:
        found = f"{num_damaged} came, each with a wrong checksum" if num_damaged else "none"
        mend = (
            "Does this firmware use another message format?"
            if num_damaged
            else "Check cable, address, domain and interface"
        )
        yield Finding(mark=FAULT, name="LowState", found=found, mend=mend)
        return
    times_s = np.array([sample.sample_info.source_timestamp for sample in samples]) / 1e9
    rate_hz, gap_s = (len(samples) - 1) / max(times_s[-1] - times_s[0], 1e-9), np.diff(times_s).max(initial=0.0)
    age_s = time.time() - times_s[-1]
    limits, state = SafetyLimits(), samples[-1].record
    good = rate_hz > 0.8 * STATE_HZ and gap_s < limits.state_timeout_s and not num_damaged
    yield Finding(
        mark=OK if good else FAULT,
        name="LowState",
        found=f"{rate_hz:.0f} Hz, longest gap {gap_s * 1e3:.0f} ms, the last {age_s * 1e3:.0f} ms ago "
        f"by the robot's clock, {num_damaged} with a wrong checksum",
        mend=f"Expected {STATE_HZ:.0f} Hz: use the cable, not wireless",
    )
    charge = int(state["bms_state"]["soc"])
    yield Finding(
        mark=OK if charge >= limits.stand_charge else FAULT,
        name="battery",
        found=f"{charge}%",
        mend=f"Charge it: {limits.stand_charge}% to stand",
    )
    motors, imu = state["motor_state"][: len(GO2_CONFIG.joints)], state["imu_state"]
    joint = int(np.argmax(motors["temperature"]))
    temperature = int(motors["temperature"][joint])
    yield Finding(
        mark=OK if temperature < WARM_C else NOTE if temperature < limits.temperature_c else FAULT,
        name="motors",
        found=f"hottest {GO2_CONFIG.joint_names[joint]}, {temperature} C",
        mend=f"Let it cool: it stops at {limits.temperature_c:.0f} C",
    )
    norm = float(np.linalg.norm(imu["quaternion"]))
    yield Finding(
        mark=OK if abs(norm - 1.0) < limits.quaternion_norm else FAULT,
        name="orientation",
        found=f"quaternion of norm {norm:.2f}",
        mend="Start the robot again: its IMU reports nothing",
    )
    legs = unfolded_legs(motors["q"])
    yield Finding(
        mark=NOTE if legs else OK,
        name="legs",
        found=f"not folded: {', '.join(legs)}" if legs else "folded",
        mend="It will be asked to lie down; if it hangs, that is all right",
    )
    seen = any(sample.record["wireless_remote"].any() for sample in samples)
    yield Finding(
        mark=OK if seen else NOTE,
        name="remote",
        found="seen" if seen else "not seen",
        mend="Switch it on and press a button: L2+B on it is the way to stop the robot at once",
    )


def _publishers(bus: Bus, commands: Any) -> Finding:
    num_sent = sum(hasattr(sample, "record") for sample in commands.take(100))
    keys = [
        data.participant_key
        for handle in commands.get_matched_publications()
        if (data := commands.get_matched_publication_data(handle))
    ]
    if not keys:
        return Finding(mark=OK, name="rt/lowcmd", found="nobody publishes it")
    who = ", ".join(bus.name_of(key) for key in keys)
    return Finding(
        mark=NOTE,
        name="rt/lowcmd",
        found=f"published by {len(keys)} ({who}), {'which send' if num_sent else 'silent'}",
        mend="The robot's own controller lets go when rfx deploy asks it to; stop any other, or if it stays silent, "
        "tolerate it with --silent-publishers",
    )


def _services(bus: Bus, clock: Clock) -> Iterator[Finding]:
    from rfx.drivers.go2.sender.switcher import DISCOVERY_S, SPORT, SWITCHER, Service, active_mode

    switcher = Service(bus, SWITCHER, clock)
    if not switcher.wait(DISCOVERY_S, lambda: None):
        yield Finding(
            mark=FAULT,
            name="motion switcher",
            found="not there",
            mend="Is this the robot's interface and domain? (A simulator without one: rfx deploy --no-motion-switcher)",
        )
        return
    try:
        mode = active_mode(switcher)
    except (TimeoutError, RuntimeError) as error:
        yield Finding(mark=FAULT, name="motion switcher", found=str(error), mend="Start the robot again")
        return
    yield Finding(
        mark=OK,
        name="motion switcher",
        found=f"the robot's own controller {mode!r} has the motors" if mode else "nobody has the motors",
    )
    there = Service(bus, SPORT, clock).wait(DISCOVERY_S, lambda: None)
    yield Finding(
        mark=OK if there or not mode else NOTE,
        name="sport service",
        found="there" if there else "not there",
        mend="Lie the robot down with its remote first",
    )
