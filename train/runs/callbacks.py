"""Callbacks of a run: a user's code, called between iterations and never during one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from train.task.task import Judgement


class Callback:
    """Called between two iterations of a run. Override the methods you need; one that returns True ends the run.

    steps is the number of environment steps so far, summed over environments.
    """

    gives_up = False  # True: a run that this callback ends has status "pruned" and no final evaluation

    def on_iteration(self, steps: int, metrics: Mapping[str, float]) -> bool | None:
        """Called after every iteration, with its metrics by tag."""

    def on_evaluation(self, steps: int, judgement: Judgement) -> bool | None:
        """Called after every evaluation except the final one, before on_iteration.

        steps is the multiple of trainer.evaluate_every that was reached.
        """


class IterationFunction(Callback):
    """Makes a plain function a Callback: the function is called as on_iteration."""

    def __init__(self, function: Callable[[int, Mapping[str, float]], bool | None]):
        self._function = function

    def on_iteration(self, steps: int, metrics: Mapping[str, float]) -> bool | None:
        """Call the function and return its result."""
        return self._function(steps, metrics)


class Callbacks:
    """The callbacks of one run. ended_by: the first callback that ended the run."""

    def __init__(self, given: Iterable[Callback | Callable]):
        self._callbacks = [as_callback(each) for each in given]
        self.ended_by: Callback | None = None

    def on_iteration(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Call on_iteration of every callback."""
        for callback in self._callbacks:
            self._note(callback, callback.on_iteration(steps, metrics))

    def on_evaluation(self, steps: int, judgement: Judgement) -> None:
        """Call on_evaluation of every callback."""
        for callback in self._callbacks:
            self._note(callback, callback.on_evaluation(steps, judgement))

    def _note(self, callback: Callback, ends: bool | None) -> None:
        if ends and self.ended_by is None:
            self.ended_by = callback


def as_callback(given: Callback | Callable) -> Callback:
    """A Callback unchanged, or a function as a Callback. Raises TypeError for anything else."""
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) or not callable(given):
        raise TypeError(f"got the callback {given!r}; expected a train.Callback or a function of steps and metrics")
    return IterationFunction(given)
