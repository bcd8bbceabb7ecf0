"""What a run shows: five calm rows in a terminal, plain lines elsewhere, both right and within 80 columns."""

import io
import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from train.runs import progress as module
from train.runs.progress import LiveProgress, Progress, clock, millions, progress
from train.tasks.gym import GymTask
from train.tasks.legged import LeggedTask

METRICS = {
    "time/env_steps_per_s": 29_400.0,
    "episode/return": 31.25,
    "episode/length_s": 18.2,
    "episode/falls": 0.08,
    "episode/error_vx": 0.094,
    "episode/error_vy": 0.071,
    "episode/error_yaw_rate": 0.181,
    "ppo/kl": 0.0123,
}


def make(kind: type[Progress], total_steps: int = 6_000_000) -> Progress:
    return kind(
        total_steps,
        LeggedTask.shown,
        Console(file=io.StringIO(), width=80, force_terminal=kind is LiveProgress),
        time.monotonic(),
    )


def drawn(display: LiveProgress) -> list[str]:
    """Rows that the display draws in a terminal 80 columns wide."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(display._render())
    return console.file.getvalue().splitlines()


def test_a_terminal_gets_the_live_display_and_a_file_plain_lines() -> None:
    terminal, file = Console(file=io.StringIO(), force_terminal=True), Console(file=io.StringIO(), force_terminal=False)
    assert type(progress(1, (), terminal, 0.0)) is LiveProgress
    assert type(progress(1, (), file, 0.0)) is Progress


def test_plain_lines_come_at_the_first_iteration_then_every_few_seconds_then_at_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = itertools.count(100.0, 1.0).__next__
    moment = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: moment[0])
    display = make(Progress, total_steps=20)
    with display:
        for steps in range(1, 21):
            moment[0] = now()  # one iteration a second
            display.update(steps, METRICS)
    lines = display.console.file.getvalue().splitlines()
    assert [int(re.match(r"\s*(\d+) of 20 steps", line)[1]) for line in lines] == [1, 6, 11, 16, 20]
    assert lines[1].endswith("  0:14 left")  # 14 iterations, a second each


def test_a_plain_line_says_what_happened() -> None:
    display = make(Progress)
    display.update(3_720_000, METRICS)
    line = display.console.file.getvalue()
    for part in (
        "3.72 M of 6.00 M steps",
        "29,400/s",
        "return 31.25",
        "length 18.2 s",
        "falls 0.08",
        "vx 0.094",
        "vy 0.071",
        "0.181 rad/s",
    ):
        assert part in line


def test_before_episodes_end_there_is_nothing_to_say_about_them() -> None:
    display = make(Progress)
    display.update(24_576, {"time/env_steps_per_s": 20_000.0})
    assert "return -  length - s  falls -" in display.console.file.getvalue()


def test_figures_are_smoothed() -> None:
    display = make(Progress)
    display.update(1, {"episode/return": 0.0})
    display.update(2, {"episode/return": 10.0})
    assert display.shown["episode/return"] == pytest.approx(0.2 * 10.0)


def test_the_live_display_shows_the_run_and_what_it_does() -> None:
    display = make(LiveProgress)
    display.status("evaluating")
    display.update(3_720_000, METRICS)
    text = "\n".join(drawn(display))
    for part in (" 62%", "3.72 M", "29,400", "31.25", "18.2", "0.08", "0.094", "0.071", "0.181", "evaluating"):
        assert part in text


def test_the_live_display_leaves_messages_and_nothing_else_behind() -> None:
    display = make(LiveProgress)
    with display:
        display.update(1_000_000, METRICS)
        display.message("evaluated 1.00 M")
    after_the_last_erasure = display.console.file.getvalue().rpartition("\x1b[2K")[2]
    assert "evaluated 1.00 M" in display.console.file.getvalue()
    assert "return" not in after_the_last_erasure


@given(
    st.integers(0, 10**12),
    st.dictionaries(st.sampled_from(sorted(METRICS)), st.floats(-1e4, 1e7)),
    st.text(max_size=200),
)
def test_no_row_is_wider_than_80_columns(steps: int, metrics: dict[str, float], status: str) -> None:
    display = make(LiveProgress, total_steps=max(1, steps))
    display.status(status)
    display.update(steps, metrics)
    assert all(len(row.rstrip()) <= 80 for row in drawn(display))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (36_061, "10:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("steps", "text"), [(0, "0"), (9_999, "9,999"), (24_576, "25 k"), (6_000_000, "6.00 M"), (123_456_789, "123.46 M")]
)
def test_millions(steps: int, text: str) -> None:
    assert millions(steps) == text


def test_workers_are_shown_where_there_are_any_and_are_not_smoothed() -> None:
    counts = {"scale/workers": 4.0, "scale/replaced_workers": 0.0, "scale/sharing_workers": 0.0}
    plain, live = make(Progress), make(LiveProgress)
    plain.update(24_576, METRICS)
    assert "workers" not in plain.line()
    for display in (plain, live):
        display.status("training")
        display.update(24_576, METRICS | counts)
        display.update(49_152, METRICS | counts | {"scale/replaced_workers": 3.0, "scale/sharing_workers": 1.0})
        assert not any(tag.startswith("scale/") for tag in display.shown)
    assert "  4 workers, 3 replaced, 1 sharing CPUs  " in plain.line()
    assert "training, 4 workers, 3 replaced, 1 sharing CPUs" in "\n".join(drawn(live))


def test_a_return_that_the_task_shows_in_its_own_form_stands_there_once() -> None:
    file, terminal = Console(file=io.StringIO(), width=80), Console(file=io.StringIO(), width=80, force_terminal=True)
    plain, live = Progress(100, GymTask.shown, file, 0.0), LiveProgress(100, GymTask.shown, terminal, 0.0)
    for display in (plain, live):
        display.update(10, {"episode/return": 20.31, "episode/length": 7.0})
    assert plain.line().count("return") == 1 == "\n".join(drawn(live)).count("return")
    assert "return 20.3  length 7 steps" in plain.line()


def test_an_evaluation_is_folded_on_a_terminal_and_a_path_is_not() -> None:
    display = make(LiveProgress)
    words = " ".join(["error vx 0.080"] * 8)
    display.message(words, fold=True)
    display.message("/a" * 60)
    lines = display.console.file.getvalue().splitlines()
    assert (
        max(map(len, lines[:-1])) <= 80
        and " ".join(line.strip() for line in lines[:-1]) == words
        and lines[-1] == "/a" * 60
    )
