"""End to end: train, export, deploy the folder over DDS against the emulated robot in another process, and see it walk
as commanded.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from go2_wire import LYING_M, STANDING_M, Deployed, EmulatorProcess, Watcher, check_gentle, drive, train

pytest.importorskip("cyclonedds", reason="needs the extra go2")


@pytest.mark.long
def test_the_base_moves_as_commanded(tmp_path):
    """Two million steps of training: forward, back and a turn are told apart over DDS."""
    policy = train(tmp_path / "run", "trainer.total_steps=2000000", "env.num_envs=256")
    for axis, command in ((0, (0.5, 0.0, 0.0)), (0, (-0.5, 0.0, 0.0)), (2, (0.0, 0.0, 0.6))):
        _, measured = drive(policy, [(5.0, command)], tmp_path / "log.jsonl")
        assert measured[:, axis].mean() == pytest.approx(command[axis], abs=0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run: that which RFX_RUN names, else one that is trained now."""
    folder = Path(os.environ["RFX_RUN"]) if "RFX_RUN" in os.environ else tmp_path_factory.mktemp("walker") / "run"
    if not (folder / "policy").is_dir():
        train(folder, "seed=0", "trainer.total_steps=1e6")
    return folder


@pytest.mark.long
def test_a_trained_policy_walks_behind_dds_as_well_as_in_its_evaluation(run, tmp_path):
    """A minute of random commands; each velocity error within 1.25 times that of the run's own evaluation."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    rng = np.random.default_rng(20)
    commands = [(5.0, (rng.uniform(-0.6, 1.0), rng.uniform(-0.4, 0.4), rng.uniform(-0.8, 0.8))) for _ in range(12)]
    wanted, measured = drive(run / "policy", commands, tmp_path / "log.jsonl")
    errors = np.abs(measured - wanted).mean(axis=0)
    for name, error in zip(("error_vx", "error_vy", "error_yaw_rate"), errors):
        print(f"{name}: {error:.3f} behind DDS, {evaluation[name]:.3f} in the evaluation")
        assert error <= 1.25 * evaluation[name]


@pytest.mark.long
def test_states_from_the_remote_are_gentle(run, tmp_path, record_property):
    """`rfx deploy` from the remote's buttons: stand, walk, stand, lie; then walk again, and Ctrl-C in the middle of a
    stride.

    By the emulated robot's own height: it comes down no faster than 0.3 m/s from when it is asked to, and level.
    RFX_FIGURE names a PNG of the run.
    """
    with EmulatorProcess() as emulator:
        emulator.ask("again")
        watcher, begun_s = Watcher(emulator), time.time()
        deployed = Deployed(emulator, str(run / "policy"), tmp_path / "log.jsonl", "--restore")
        presses, ends = [], []

        def press(button, until, count):
            presses.append((time.time() - begun_s, button))
            watcher.tap(button)
            deployed.wait_for(until, count=count)

        try:
            deployed.wait_for("Passive")
            time.sleep(1.0)
            press("Start", "Stand", 1)
            time.sleep(1.0)
            press("A", "Walk", 1)
            for sticks in ("ly=0.6", "ly=0.4 rx=-0.8", "lx=1", "ly=1"):
                watcher.ask(f"sticks {sticks}")
                time.sleep(2.5)
            ends.append(len(watcher.rows))
            press("B", "Stand", 2)
            time.sleep(1.0)
            press("Start", "Passive", 2)
            time.sleep(1.0)
            press("Start", "Stand", 3)
            time.sleep(1.0)
            press("A", "Walk", 2)
            watcher.ask("sticks ly=1")
            time.sleep(2.5)
            ends.append(len(watcher.rows))
            presses.append((time.time() - begun_s, "Ctrl-C"))
            assert deployed.finish() == (0, "interrupted\n")
        finally:
            deployed.kill()
            watcher.close()
        assert emulator.ask("pose")["mode"] == "normal", "its own controller has the motors again"
    said = [(said_s - begun_s, line) for said_s, line in zip(deployed.said_s, deployed.lines)]
    if "RFX_FIGURE" in os.environ:
        draw_states(np.array(watcher.rows) - (begun_s, 0.0, 0.0, 0.0), said, presses, os.environ["RFX_FIGURE"])
    walked = np.array(watcher.rows[: ends[0]])
    assert walked[:, 1].max() > STANDING_M and walked[:, 2].max() < 0.35, "it stood, walked, and did not lean"
    assert watcher.height < LYING_M
    for rows, name in (
        (watcher.rows[ends[0] : ends[1]], "B, Start, and up again"),
        (watcher.rows[ends[1] :], "Ctrl-C while walking"),
    ):
        check_gentle(rows, name, record_property)
        assert np.array(rows)[:, 2].max() < 0.2, (
            "taken from it in mid-stride, its legs tilted one policy by 0.37 rad, and threw another"
        )


def draw_states(rows: np.ndarray, said: list[tuple[float, str]], presses: list[tuple[float, str]], path: str) -> None:
    """Height, tilt and vertical speed (over 50 ms) of a run, its states and buttons. rows (T, 4): s, m, rad, m/s."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = {
        "Passive": "#e5e7eb",
        "standing up": "#fde68a",
        "Stand": "#bbf7d0",
        "Walk": "#bfdbfe",
        "lying down": "#fecaca",
    }
    states = [(at, state) for at, line in said if (state := line.partition(";")[0]) in colors]
    times, heights, tilts, _ = rows[rows[:, 0] > states[0][0]].T
    later = np.minimum(np.searchsorted(times, times + 0.05), len(times) - 1)
    speeds = (heights[later] - heights) / np.maximum(times[later] - times, 0.01)
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for axis, values, label in zip(
        axes, (heights, np.degrees(tilts), speeds), ("height of the base, m", "tilt, degrees", "vertical speed, m/s")
    ):
        for (at, state), (until, _) in zip(states, [*states[1:], (times[-1], "")]):
            axis.axvspan(at - times[0], until - times[0], color=colors[state], linewidth=0)
        for at, _ in presses:
            axis.axvline(at - times[0], color="#4b5563", linewidth=0.8, linestyle=":")
        axis.plot(times - times[0], values, color="#1f3b73", linewidth=1.2)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0.0) if values is not speeds else axis.set_ylim(-0.35, 0.35)
        axis.spines[["top", "right"]].set_visible(False)
    for at, button in presses:
        axes[0].annotate(button, (at - times[0], 0.02), xytext=(3, 0), textcoords="offset points", fontsize=9)
    axes[2].axhline(-0.3, color="#b91c1c", linewidth=0.8, linestyle="--", label="limit on the way down")
    axes[2].legend(loc="upper right", fontsize=8, frameon=False)
    axes[2].set_xlabel("s")
    axes[2].set_xlim(0.0, times[-1] - times[0])
    figure.legend(
        handles=[Patch(color=color, label=state) for state, color in colors.items()],
        loc="outside upper center",
        ncols=5,
        frameon=False,
    )
    figure.savefig(path, dpi=90)
