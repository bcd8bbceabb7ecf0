"""A Ray actor of a run: has a part of the run's environments, and the policy that acts in them."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.nn import kernels
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.state import Array
from train.ppo.collector import Collector
from train.ppo.forward import Forward
from train.ppo.network import Shape
from train.scale.changes import Changes, changes
from train.scale.cluster import enter
from train.task.flat import config_of
from train.task.modules import Sources, install_sources
from train.task.task import find_task

LEFT_OUT = ("observation", "critic_observation", "advantage", "returns")  # not sent: the learner computes them


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a worker sends after a rollout.

    It has the rollout's arrays by name, (T, n, ...), the value of the observation after it (n,), and the final state of
    the environments.
    """

    arrays: Mapping[str, Array]
    value: Array
    measured: Mapping[str, Array]  # metrics measured by the environments
    changed: Changes  # changes of the environments' state since the last rollout
    seconds: float  # duration of the collection

    @property
    def num_bytes(self) -> int:
        """Size of all arrays together."""
        changed = (array for pair in self.changed.values() for array in pair)
        return sum(
            array.nbytes
            for array in (*self.arrays.values(), self.value, *self.measured.values(), *changed)
            if isinstance(array, np.ndarray)
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """A worker's part of a run. All values are plain, because a class may be from a user's module, sent in sources."""

    values: Mapping[str, Any]  # values_of the TrainConfig
    sources: Sources  # source files of the user's modules
    directory: str  # directory in which the command was given, for relative paths
    rows: range  # rows of the worker's environments
    seeds: Mapping[str, int]  # the seeds of Collector
    state_dim: int


class Worker:
    """Collects rollouts in the environments of a share, with a given number of threads."""

    def __init__(self, share: Share, threads: int):
        for number in (signal.SIGINT, signal.SIGHUP):  # the learner handles Ctrl-C and a closed terminal
            signal.signal(number, signal.SIG_IGN)
        enter(share.directory)
        install_sources(share.sources)
        kernels.set_num_threads(threads)
        config = config_of({**share.values, "threads": threads})
        rows, seeds, state_dim = share.rows, share.seeds, share.state_dim
        env = find_task(config.task)(config).make_env(rows)
        self._collector = Collector(env, **seeds, first=rows.start, state_dim=state_dim, history=config.policy.history)
        shape = Shape(config.policy, self._collector.observation, env.single_action_space, state_dim)
        self._forward, self._rollout = Forward(shape.network()), shape.rollout(config.trainer.rollout_steps, len(rows))
        self._sent = [
            field.name
            for field in dataclasses.fields(self._rollout)
            if field.name not in LEFT_OUT or (field.name == "observation" and config.policy.history > 1)
        ]
        self._known: Mapping[str, Any] = {}  # the state that the learner has

    def process(self) -> tuple[int, str]:
        """The process number, and Ray's name of the machine; returns when the worker is ready."""
        import ray

        return os.getpid(), ray.get_runtime_context().get_node_id()

    def collect(self, given: tuple[Mapping[str, Array], Mapping[str, Any], Mapping[str, Any] | None]) -> Collected:
        """Collect the next rollout with the given weights and normalizers of the policy."""
        begin, (weights, *normalizers) = time.perf_counter(), given
        self._forward.take(weights)
        normalizer, critic_normalizer = (values and ObservationNormalizer.from_dict(values) for values in normalizers)
        value = self._collector.collect(self._forward, self._rollout, normalizer, critic_normalizer)
        measure = getattr(self._collector.env.unwrapped, "measured", None)
        before, self._known = self._known, self._collector.state_dict()
        return Collected(
            arrays={name: getattr(self._rollout, name) for name in self._sent},
            value=value,
            measured=measure() if measure else {},
            changed=changes(before, self._known),
            seconds=time.perf_counter() - begin,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of the worker's Collector."""
        return self._collector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of the worker's Collector."""
        self._collector.load_state_dict(state)
        self._known = state
