"""The display of a run while it trains: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from train.task.task import Figure

SMOOTHING = 0.2  # weight of the newest iteration in the smoothed figures
LINE_EVERY_S = 5.0
COUNTS = "scale/"  # prefix of tags that are shown apart and are not smoothed
SPEED = Figure(name="time/env_steps_per_s", label="speed", unit="/s", format=",.0f")
KL = Figure(name="ppo/kl", label="kl")
RETURN = Figure(name="episode/return", label="return", format=".2f")


def progress(total_steps: int, shown: Sequence[Figure], console: Console, began: float) -> Progress:
    """The display for a console: live in a terminal, plain lines elsewhere.

    shown are the figures of the task to show. began is the start, by time.monotonic.
    """
    return (LiveProgress if console.is_terminal else Progress)(total_steps, shown, console, began)


class Progress:
    """Prints a plain line every few seconds. Use as a context manager: status, then update after every iteration."""

    def __init__(self, total_steps: int, shown: Sequence[Figure], console: Console, began: float):
        self.total_steps, self.console = total_steps, console
        self.figures = (
            next(
                (figure for figure in shown if figure.name == RETURN.name), RETURN
            ),  # a task may have its own number format for a figure
            *(figure for figure in shown if figure.name != RETURN.name),
        )
        self.steps, self.now = 0, ""
        self.shown: dict[str, float] = {}
        self.workers = ""  # text about the number of workers, if workers collect
        self._began, self._last_line = began, -math.inf
        self._first: tuple[float, int] | None = None  # time and steps after the first iteration, which compiles

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def go_on(self, steps: int, elapsed_s: float, shown: Mapping[str, float]) -> None:
        """Show an interrupted run's steps, its elapsed time and its figures at the interruption."""
        self.steps, self.shown = steps, dict(shown)
        self._began -= elapsed_s

    def status(self, now: str) -> None:
        """Set the text that says what the run is doing now."""
        self.now = now

    def message(self, line: str, fold: bool = False) -> None:
        """Print a line that stays.

        fold: break the line between words to fit the terminal. Without fold the line can be copied as one line.
        """
        self.console.print(line, highlight=False, soft_wrap=not (fold and self.console.is_terminal))

    def update(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one iteration; steps is the number of environment steps so far."""
        for tag, value in metrics.items():
            if tag.startswith(COUNTS):
                continue
            self.shown[tag] = (
                value if tag not in self.shown else (1.0 - SMOOTHING) * self.shown[tag] + SMOOTHING * value
            )
        self.steps, self.workers = steps, workers(metrics)
        if self._first is None:
            self._first = time.monotonic(), steps
        self._refresh()

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S or self.steps >= self.total_steps:
            self._last_line = now
            self.message(self.line())

    def line(self) -> str:
        """The current state of the run as one line."""
        figures = "  ".join(f"{figure.label} {self._text(figure)} {figure.unit}".rstrip() for figure in self.figures)
        return "  ".join(
            filter(
                None,
                (
                    f"{millions(self.steps)} of {millions(self.total_steps)} steps",
                    f"{self._text(SPEED)}/s",
                    figures,
                    self.workers,
                    f"{self.remaining()} left",
                ),
            )
        )

    def remaining(self) -> str:
        """Estimated time to the last step, from the average speed since the first iteration."""
        if self._first is None or self.steps <= self._first[1]:
            return "-:--"
        pace = (time.monotonic() - self._first[0]) / (self.steps - self._first[1])
        return clock(pace * max(0, self.total_steps - self.steps))

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has taken, without interruptions."""
        return time.monotonic() - self._began

    def _text(self, figure: Figure) -> str:
        """The figure's current value as text, or a dash before the first value."""
        return dataclasses.replace(figure, value=self.shown.get(figure.name, math.nan)).text


class LiveProgress(Progress):
    """Redraws five rows in place; messages stay above them."""

    def __init__(self, total_steps: int, shown: Sequence[Figure], console: Console, began: float):
        super().__init__(total_steps, shown, console, began)
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)

    def __enter__(self) -> LiveProgress:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(*error)

    def _refresh(self) -> None:
        pass  # Live draws by its own clock

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 1), expand=False)
        bar.add_row(
            ProgressBar(total=self.total_steps, completed=self.steps, width=38),
            f"{self.steps / self.total_steps:4.0%}",
            f"[dim]{clock(self.elapsed_s)} elapsed, {self.remaining()} left[/]",
        )
        figures = Table.grid(padding=(0, 1))
        for width, justify in ((8, "left"), (9, "right"), (7, "left")) * 3:
            figures.add_column(min_width=width, justify=justify, no_wrap=True)
        cells = [
            ("steps", millions(self.steps), ""),
            *(
                (figure.label, self._text(figure), figure.unit)
                for figure in (SPEED, self.figures[0], KL, *self.figures[1:])
            ),
        ]
        for row in range(0, len(cells), 3):
            figures.add_row(
                *(
                    text
                    for name, value, unit in cells[row : row + 3]
                    for text in (f"[dim]{name}[/]", value, f"[dim]{unit}[/]")
                )
            )
        self._spinner.update(text=Text(", ".join(filter(None, (self.now, self.workers))), style="dim"))
        return Group("", bar, figures, self._spinner)


def workers(metrics: Mapping[str, float]) -> str:
    """Text with the number of workers, of deaths, and of workers that share CPUs; empty without workers."""
    if "scale/workers" not in metrics:
        return ""
    counts = (
        (metrics[f"scale/{name}"], text)
        for name, text in (("replaced_workers", "replaced"), ("sharing_workers", "sharing CPUs"))
    )
    return f"{metrics['scale/workers']:.0f} workers" + "".join(
        f", {count:.0f} {text}" for count, text in counts if count
    )


def millions(steps: float) -> str:
    """A number of steps as text: 1.23 M, 45 k."""
    return f"{steps / 1e6:.2f} M" if steps >= 1e6 else f"{steps / 1e3:.0f} k" if steps >= 1e4 else f"{steps:,.0f}"


def clock(seconds: float) -> str:
    """A time as text, in minutes and seconds, with hours if there are any."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
