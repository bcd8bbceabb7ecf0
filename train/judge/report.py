"""One HTML page with the results of the suite, which contains its plots and video and needs no other files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from envs.legged.config import EnvConfig
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array
from train.judge.evaluation import FIGURES, Evaluation
from train.judge.page import data_url, document, number, section, table
from train.judge.play import Act
from train.judge.plots import draw
from train.judge.showcase import write_showcase
from train.judge.suite import SWEEPS, TARGET_PUSH_M_S, Suite, targets

CAPTIONS = {
    "tracking": (
        "Reached and commanded",
        "One axis at a time is commanded, over the range of training, nominal: the mean velocity after a second. "
        "Dashed is what was asked for, between the dots is the target.",
    ),
    "commands": (
        "Commands",
        "The robots of a cell are asked for one forward speed and yaw rate for 8 s. White: none stood for a second.",
    ),
    "sweeps": (
        "Conditions",
        "One thing at a time differs from the nominal robot (dashed line), on the same commands and starts.",
    ),
    "pushes": (
        "Pushes",
        "While robots walk, which differ and sense as in training, their base is given another velocity at once, to eight sides and "
        "at eight phases of the gait; counted are those that do not fall within 4 s.",
    ),
    "terrain": (
        "Terrain",
        "Blind, straight on from the middle of a tile to its edge. A level is passed, below the dashed line, when it and "
        "all easier ones are crossed by 80% of the robots, with at most 0.1 falls per episode, means over all kinds.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One policy and its results for the page. video is an MP4; if it is None, why gives the reason."""

    path: str
    training_info: Mapping[str, Any]
    suite: Suite
    conditions: Mapping[str, Evaluation]  # by name: nominal, as trained, worst corner
    video: bytes | None
    why: str = ""


def film(act: Act, task: EnvConfig, robot: RobotConfig) -> dict[str, Any]:
    """The fields video and why of Judged."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_showcase(Path(folder) / "video.mp4", act, task, robot)
        except RuntimeError as error:  # no OpenGL here: after minutes of play the page is worth having without a video
            return {"video": None, "why": str(error)}
        return {"video": (Path(folder) / "video.mp4").read_bytes()}


def write_report(folder: Path, policies: Mapping[str, Judged], conditions: str) -> Path:
    """Write report.html into folder, and its plots and videos also as files in folder/report/.

    Returns the page's path.
    """
    pictures = draw({name: judged.suite for name, judged in policies.items()})
    (folder / "report").mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / "report" / f"{name}.png").write_bytes(data)
    for index, judged in enumerate(policies.values()):
        if judged.video:
            (folder / "report" / ("walk.mp4" if index == 0 else "walk_compare.mp4")).write_bytes(judged.video)
    (folder / "report.html").write_text(page(policies, pictures, conditions), encoding="utf-8")
    return folder / "report.html"


def page(policies: Mapping[str, Judged], pictures: Mapping[str, bytes], conditions: str) -> str:
    """The page as HTML. pictures are PNG, by name in CAPTIONS; conditions says how much was played."""
    names = list(policies)
    sections = [
        section(
            "Targets",
            "What a policy must reach before a robot should run it: with 95% confidence, so the bound must be within it.",
            _targets(policies),
        ),
        section("In motion", "Blue arrows are commanded, orange ones actual velocities.", _films(policies)),
        section(
            "Random commands",
            "Nominal: the robot, floor and delays of its model. As trained: with all that disturbs it in training at once. "
            "Worst corner: a floor of friction 0.4, a fifth of its mass as payload, motors of 85% strength, actions a control step late "
            "and an IMU tilted by 2 degrees, at once.",
            _conditions(policies),
        ),
    ]
    for name, (title, caption) in CAPTIONS.items():
        body = f'<img alt="{escape(title)}" src="{data_url("image/png", pictures[name])}">'
        more = {"sweeps": _sweeps, "pushes": _pushes, "terrain": _terrain}.get(name)
        sections.append(section(title, caption, body + (more(policies) if more else "")))
    about = "".join(f"<p><b>{escape(name)}</b>: {escape(_origin(judged))}</p>" for name, judged in policies.items())
    head = f"<h1>How well it walks</h1>{about}<p>{escape(conditions)}</p>\n"
    return document(" and ".join(names), head + "\n".join(sections))


def _origin(judged: Judged) -> str:
    info = judged.training_info
    parts = [judged.path, *(f"{key} {info[key]}" for key in ("robot", "seed") if key in info)]
    parts += [f"{info['steps']:,} training steps"] if "steps" in info else []
    parts += [f"{info['wall_s'] / 60:.0f} minutes"] if "wall_s" in info else []
    return ", ".join(parts)


def _targets(policies: Mapping[str, Judged]) -> str:
    columns = [targets(judged.suite) for judged in policies.values()]
    head = ["", "target", *(cell for name in policies for cell in (escape(name), "95% bound")), ""]
    rows = [
        [
            escape(row[0].name),
            f"{'at least' if row[0].at_least else 'at most'} {row[0].limit:g}",
            *(
                cell
                for target in row
                for cell in (number(target.value), (number(target.bound_95), "met" if target.met else "missed"))
            ),
            (escape(row[0].unit), "unit"),
        ]
        for row in zip(*columns)
    ]
    return table(head, rows)


def _conditions(policies: Mapping[str, Judged]) -> str:
    columns = {
        name if len(policies) == 1 else f"{policy}, {name}": result
        for policy, judged in policies.items()
        for name, result in judged.conditions.items()
    }
    return table(
        ["", *map(escape, columns), ""],
        [[row.label, *(number(getattr(e, row.name)) for e in columns.values()), (row.unit, "unit")] for row in FIGURES],
    )


def _pushes(policies: Mapping[str, Judged]) -> str:
    """Table of survival at the target's push size: over all pushes, at the worst phase, and from the worst side."""
    rows = []
    for name, judged in policies.items():
        pushes, worst = judged.suite.pushes, judged.suite.pushes.worst(TARGET_PUSH_M_S)
        if not worst:
            continue
        phase, side, cell = worst["phase"], worst["direction"], worst["cell"]
        rows.append(
            [
                escape(name),
                number(pushes.share(TARGET_PUSH_M_S)),
                number(pushes.share_lower_95(TARGET_PUSH_M_S)),
                f"{number(phase['share'])} at {phase['cycles']:g} of the cycle",
                f"{number(side['share'])} {side['towards']}",
                f"{number(cell['share'])} at {cell['cycles']:g}, {cell['towards']}, of {cell['robots']} robots",
            ]
        )
    head = [
        f"survive {TARGET_PUSH_M_S:g} m/s",
        "in all",
        "95% bound",
        "worst phase",
        "worst side",
        "worst phase and side",
    ]
    return table(head, rows)


def _sweeps(policies: Mapping[str, Judged]) -> str:
    """Every sweep as a table that is folded at first; the other models too."""
    tables = []
    for name, sweep in SWEEPS.items():
        cases = [
            (f"{value:g} {sweep.unit}".strip(), [judged.suite.sweeps[name][i] for judged in policies.values()])
            for i, value in enumerate(sweep.values)
        ]
        tables.append((sweep.label, cases))
    paths = dict.fromkeys(path for judged in policies.values() for path in judged.suite.models)
    if paths:
        tables.append(
            ("another model", [(path, [judged.suite.models[path] for judged in policies.values()]) for path in paths])
        )
    html = []
    for label, cases in tables:
        main = [figure for figure in FIGURES if figure.main]
        head = [
            label,
            *(
                f"{escape(name)}: {figure.label}" if len(policies) > 1 else figure.label
                for name in policies
                for figure in main
            ),
        ]
        rows = [
            [escape(case), *(number(getattr(e, figure.name)) for e in evaluations for figure in main)]
            for case, evaluations in cases
        ]
        html.append(
            f"<details{' open' if label == 'another model' else ''}><summary>{label}</summary>{table(head, rows)}</details>"
        )
    return "".join(html)


def _terrain(policies: Mapping[str, Judged]) -> str:
    """Table of the terrain results over all kinds and levels."""
    results = [judged.suite.crossings for judged in policies.values()]
    rows = [
        ["levels passed", *(f"{result.levels_passed} of {len(result.falls)}" for result in results), ("", "unit")],
        ["falls", *(number(result.falls.mean()) for result in results), ("per episode", "unit")],
        ["get across", *(number(result.crossed.mean()) for result in results), ("of robots", "unit")],
        [
            "velocity error",
            *(number(_mean(result.error)) for result in results),
            (f"m/s, at {results[0].vx:g} m/s", "unit"),
        ],
    ]
    return table(["over all kinds and levels", *map(escape, policies), ""], rows)


def _mean(values: Array) -> float:
    """Mean of the finite values."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _films(policies: Mapping[str, Judged]) -> str:
    films = []
    for name, judged in policies.items():
        film = (
            f'<video controls autoplay muted loop playsinline src="{data_url("video/mp4", judged.video)}"></video>'
            if judged.video
            else f"<p>No video: {escape(judged.why)}</p>"
        )
        films.append(
            f"<figure>{film}<figcaption>{escape(name)}: forwards, sideways, turning, forwards with a push of 0.6 m/s after 8 s, "
            "standing.</figcaption></figure>"
        )
    return f'<div class="films">{"".join(films)}</div>'
