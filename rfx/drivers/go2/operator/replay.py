"""Reads a log of the last seconds: it describes events and timing, and runs a policy on the log again."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from rfx.drivers.go2.rules.log import Recording
from rfx.drivers.go2.rules.mailbox import UNKNOWN
from rfx.drivers.go2.rules.pose import adopt
from rfx.robot.state import projected_gravity
from rfx.system.extras import missing


def describe(recording: Recording) -> str:
    """Describe the reason, the phases and the extremes, one line each."""
    arrays, config = recording.arrays, recording.config
    times = arrays["time_s"]
    if not len(times):
        return f"stopped: {recording.reason}; no ticks recorded"
    gaps, ages = np.diff(times), times - arrays["state_time_s"]
    tilt = _tilt(arrays["quaternion"])
    torque = (
        arrays["kp"][:, None] * (arrays["sent"] - arrays["joint_position"])
        - arrays["kd"][:, None] * arrays["joint_velocity"]
    )
    phases = ", ".join(f"{name} {count}" for name, count in Counter(recording.phase).items())
    lines = [
        f"stopped: {recording.reason}",
        f"{times[-1] - times[0]:.2f} s, {len(times)} ticks: {phases}",
        f"ticks apart: median {np.median(gaps) * 1e3:.2f} ms, longest {gaps.max(initial=0.0) * 1e3:.2f} ms",
        f"LowState age: median {np.median(ages) * 1e3:.2f} ms, greatest {ages.max() * 1e3:.2f} ms",
        f"tilt: greatest {tilt.max():.2f} rad",
    ]
    for name, values, unit in (
        ("speed", arrays["joint_velocity"], "rad/s"),
        ("reported torque", arrays["joint_torque"], "N m"),
        ("commanded torque", torque, "N m"),
    ):
        row, joint = np.unravel_index(np.argmax(np.abs(values)), values.shape)
        lines.append(
            f"{name}: greatest {abs(values[row, joint]):.1f} {unit}, {config.joint_names[joint]} at {times[row] - times[-1]:.2f} s"
        )
    latencies = [f"{key} {value * 1e3:.2f} ms" for key, value in recording.timing.items() if isinstance(value, float)]
    return "\n".join([*lines, ", ".join(latencies)])


def recompute(recording: Recording, source: str) -> str:
    """Compute the recorded actions again with the policy at source.

    Raises ValueError if the log holds no policy step.
    """
    from rfx.loading.loaded_policy import load_policy

    policy = load_policy(source)
    if policy.robot_config is None or (found := adopt(policy.robot_config).differences(recording.config)):
        raise ValueError(
            f"the policy at {source} is not the one that the log is of: "
            + ("it does not say its robot" if policy.robot_config is None else "; ".join(found))
        )
    observation, action = recording.arrays["observation"], recording.arrays["action"]
    if observation.ndim != 2 or not len(
        steps := np.flatnonzero(np.isfinite(observation).all(axis=1) & (recording.arrays["step"] > 0))
    ):
        raise ValueError("the log holds no policy step")
    again = np.concatenate([policy({"state": observation[step, None].astype(np.float32)}) for step in steps]).clip(
        -1.0, 1.0
    )
    known = slice(policy.history - 1, None)  # earlier steps need observations from before the log
    if not len(steps[known]):
        raise ValueError(
            f"the log holds {len(steps)} policy steps, fewer than the {policy.history} observations that the policy reads"
        )
    return (
        f"{len(steps[known])} policy steps computed again: "
        f"greatest difference of an action {np.abs(again - action[steps])[known].max():.2e}"
    )


def plot(recording: Recording, path: str) -> str:
    """Plot phases, joints, tilt, battery, command and accelerometer over time to a picture at path. Returns path.

    Raises ModuleNotFoundError without the extra `viz`, ValueError for a log without a tick.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing("plotting", "matplotlib") from error
    arrays, config = recording.arrays, recording.config
    if not len(arrays["time_s"]):
        raise ValueError("the log holds no tick")
    times_s = arrays["time_s"] - arrays["time_s"][0]
    names = sorted(set(recording.phase), key=recording.phase.index)
    battery = np.where(arrays["battery"] == UNKNOWN, np.nan, arrays["battery"])
    command = arrays["velocity_command"].reshape(len(times_s), -1)
    rows = [
        ("tilt, rad", [("", _tilt(arrays["quaternion"]))]),
        ("battery, %", [("", battery)]),
        ("hottest motor, C", [("", arrays["temperature"].max(axis=1))]),
        ("accelerometer, m/s\u00b2", list(zip("xyz", arrays["accelerometer"].T))),
        ("command, m/s, rad/s", list(zip(("vx", "vy", "yaw rate"), command.T))),
        *(
            (
                f"{part}, rad",
                [
                    (name.partition("_")[0], arrays["joint_position"][:, joint])
                    for joint, name in enumerate(config.joint_names)
                    if part in name
                ],
            )
            for part in ("hip", "thigh", "calf")
        ),
    ]
    figure = Figure(figsize=(12, 2 * (1 + len(rows))), layout="constrained")
    axes = figure.subplots(1 + len(rows), 1, sharex=True)
    axes[0].step(times_s, [names.index(phase) for phase in recording.phase], where="post")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_title(f"stopped: {recording.reason}" if recording.reason else "a run")
    for axis, (label, lines) in zip(axes[1:], rows):
        axis.set_ylabel(label)
        for name, values in lines:
            known = np.isfinite(values)
            axis.plot(times_s[known], values[known], label=name)
        if len(lines) > 1:
            axis.legend(loc="upper right", fontsize="small")
    axes[-1].set_xlabel("s")
    figure.savefig(path)
    return path


def show(recording: Recording) -> None:
    """Play the recorded joints and orientation in a window, at their recorded speed."""
    from rfx.drivers.sim import Physics

    physics = Physics(recording.config, viewer=True)
    arrays = recording.arrays
    begun_s = time.monotonic()
    for row in range(0, len(arrays["time_s"]), 8):
        physics.place(arrays["joint_position"][row], quaternion=arrays["quaternion"][row])
        physics.sync()
        time.sleep(max(0.0, arrays["time_s"][row] - arrays["time_s"][0] - (time.monotonic() - begun_s)))
    physics.close()


def _tilt(quaternion: np.ndarray) -> np.ndarray:
    """Tilt of the body. (T, 4) wxyz -> (T,), rad."""
    gravity = projected_gravity(quaternion.astype(np.float32))
    return np.arccos(np.clip(-gravity[:, 2], -1.0, 1.0))
