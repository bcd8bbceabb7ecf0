"""Callbacks of a run: a user's code, called between two iterations and never inside one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from train.task.task import Judgement


class Callback:
    """Called between two iterations of a run. Override what you need; a method that returns True ends the run there.

    steps is the number of environment steps so far, summed over environments.
    """

    gives_up = (
        False  # True: a run that this callback ends has status "pruned", without the evaluation that a run ends with
    )

    def on_iteration(self, steps: int, metrics: Mapping[str, float]) -> bool | None:
        """After every iteration, with its metrics by tag."""

    def on_evaluation(self, steps: int, judgement: Judgement) -> bool | None:
        """After every evaluation but the final one, before on_iteration.

        steps is the multiple of trainer.evaluate_every that was reached.
        """


class IterationFunction(Callback):
    """A plain function as a Callback: it is called as on_iteration."""

    def __init__(self, function: Callable[[int, Mapping[str, float]], bool | None]):
        self._function = function

    def on_iteration(self, steps: int, metrics: Mapping[str, float]) -> bool | None:
        """What the function returns."""
        return self._function(steps, metrics)


class Callbacks:
    """The callbacks of one run. ended_by: the first that ended it."""

    def __init__(self, given: Iterable[Callback | Callable]):
        self._callbacks = [as_callback(each) for each in given]
        self.ended_by: Callback | None = None

    def on_iteration(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Call all of them."""
        for callback in self._callbacks:
            self._note(callback, callback.on_iteration(steps, metrics))

    def on_evaluation(self, steps: int, judgement: Judgement) -> None:
        """Call all of them."""
        for callback in self._callbacks:
            self._note(callback, callback.on_evaluation(steps, judgement))

    def _note(self, callback: Callback, ends: bool | None) -> None:
        if ends and self.ended_by is None:
            self.ended_by = callback


def as_callback(given: Callback | Callable) -> Callback:
    """A Callback as it is, a function as one. Raises TypeError for anything else."""
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) or not callable(given):
        raise TypeError(f"got the callback {given!r}; expected a train.Callback or a function of steps and metrics")
    return IterationFunction(given)
