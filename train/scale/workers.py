"""Collection by Ray actors, each with its share of the environments: the rollout is the same, to the bit, for any number of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from rfx.normalizer import ObservationNormalizer
from train.config import TrainConfig
from train.errors import InputError, TrainingBroken, one_line
from train.ppo.collector import Collector
from train.ppo.forward import Forward
from train.ppo.rollout import Array, Rollout
from train.scale.worker import Worker
from train.task import Task

DEATHS = 3  # of one share's workers in one iteration: more are no accident


class Workers:
    """What a Collector is, spread over config.scale.workers Ray actors. seeds are a Collector's.

    Weights go out once an iteration, through the object store, and rollouts come back as a few large arrays; beside a rollout its worker
    gives the state that it ended in. A worker that dies is replaced by one that begins where its last rollout ended, and repeats the
    iteration. env, of one environment, tells spaces and sums up metrics. Raises InputError where there is no cluster.
    """

    history = None  # it is the workers'

    def __init__(self, config: TrainConfig, task: Task, seeds: Mapping[str, int]):
        from train.trainer import check_env

        self._scale, self._config, self._seeds, num_envs = config.scale, config, dict(seeds), config.env.num_envs
        edges = [i * num_envs // self._scale.workers for i in range(self._scale.workers + 1)]
        self.rows = [range(*pair) for pair in zip(edges, edges[1:])]
        self._threads = self._scale.threads or max(1, (os.cpu_count() or 1) // self._scale.workers)
        first = task.make_env(range(1))
        check_env(first, config.policy.critic == "privileged")
        template = Collector(first, **seeds, state_dim=task.state_dim)
        self.env, self.observation, self.state_dim = first, template.observation, template.state_dim
        self._connect()
        self._actors = [self._start(rows) for rows in self.rows]
        self._states: list[dict[str, Any] | None] = [None] * len(self.rows)  # that each share's next rollout begins with; None: a reset
        self._measured: list[dict[str, Array]] = []
        self._lost_s = 0.0
        self.num_replaced = 0

    def _connect(self) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address, needed = self._scale.address, self._threads * len(self.rows)
        if not ray.is_initialized():
            self._join(address, needed)
        if (there := int(ray.cluster_resources().get("CPU", 0))) < needed:
            raise InputError(f"scale.workers={len(self.rows)} of {self._threads} threads need {needed} CPUs, and the Ray cluster has {there}: "
                             "add machines, or lower scale.workers or scale.threads")

    def _join(self, address: str | None, needed: int) -> None:
        import ray

        own = {"num_cpus": max(needed, os.cpu_count() or 1), "include_dashboard": False} if address is None else {}
        try:
            ray.init(address="local" if address is None else address, logging_level="ERROR", log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"scale.address={address}: no Ray cluster answers there ({one_line(error)}); begin one with ray start --head, "
                             "or leave scale.address out") from error

    def _start(self, rows: range) -> Any:
        import ray

        options = {"num_cpus": self._threads, "scheduling_strategy": "SPREAD", "max_restarts": 0}
        return ray.remote(Worker).options(**options).remote(self._config, rows, self._threads, self._seeds, self.state_dim)

    def collect(self, forward: Forward, rollout: Rollout, normalizer: ObservationNormalizer,
                critic_normalizer: ObservationNormalizer | None = None) -> Array:
        """As Collector's. Raises TrainingBroken where a share's workers die again and again."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError

        begin, seconds, deaths = time.perf_counter(), [0.0] * len(self.rows), 0
        normalizers = (normalizer.to_dict(), critic_normalizer and critic_normalizer.to_dict())
        given = ray.put((forward.weights(), normalizers))
        waiting = {actor.collect.remote(given): i for i, actor in enumerate(self._actors)}
        value, measured, states = np.empty(rollout.reward.shape[1], np.float32), [{} for _ in self.rows], list(self._states)
        while waiting:
            (reference,), _ = ray.wait([*waiting], num_returns=1)
            i = waiting.pop(reference)
            try:
                result = ray.get(reference)
            except (RayActorError, ObjectLostError) as error:
                deaths += 1
                if deaths > DEATHS * len(self.rows):
                    raise TrainingBroken(f"workers died {deaths} times in one iteration, the last of: {one_line(error)}") from error
                waiting[self._replace(i).collect.remote(given)] = i
                continue
            cut = slice(self.rows[i].start, self.rows[i].stop)
            for name, values in result.arrays.items():
                getattr(rollout, name)[:, cut] = values
            value[cut], measured[i], states[i], seconds[i] = result.value, result.measured, result.state, result.seconds
        if rollout.observation.shape == rollout.raw_observation.shape:  # no history: quicker to compute again than to send
            normalizer.normalize(_flat(rollout.raw_observation), out=_flat(rollout.observation))
        if critic_normalizer:
            critic_normalizer.normalize(_flat(rollout.raw_critic_observation), out=_flat(rollout.critic_observation))
        self._states = states
        self._measured.append(_joined(measured))
        self._lost_s = time.perf_counter() - begin - max(seconds)
        return value

    def _replace(self, i: int) -> Any:
        """A new worker for share i, where its last rollout ended."""
        import ray

        self.num_replaced += 1
        ray.kill(self._actors[i])  # it may live, and have lost what it sent
        self._actors[i] = self._start(self.rows[i])
        if self._states[i] is not None:
            self._actors[i].load_state_dict.remote(self._states[i])
        return self._actors[i]

    def metrics(self) -> dict[str, float]:
        """As Collector's; and what of the last collection was not the slowest worker's work."""
        tags = {"time/ray_s": self._lost_s, "scale/replaced_workers": float(self.num_replaced)}
        if self._measured and self._measured[-1]:
            tags |= self.env.unwrapped.summarize(self._measured[-1])
        self._measured.clear()
        return tags

    def state_dict(self) -> dict[str, Any]:
        """As Collector's, of all environments in their order."""
        import ray

        return _joined([ray.get(actor.state_dict.remote()) if state is None else state for actor, state in zip(self._actors, self._states)])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As Collector's."""
        import ray

        ours = {name: values for name, values in state.items() if name.partition(".")[0] in ("noise", "env", "observation", "history")}
        self._states = [{name: values[rows.start:rows.stop] for name, values in ours.items()} for rows in self.rows]
        try:
            ray.get([actor.load_state_dict.remote(part) for actor, part in zip(self._actors, self._states)])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def close(self) -> None:
        """End the workers."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of every share, in order: of arrays and of lists."""
    return {name: sum((part[name] for part in parts), []) if isinstance(value, list) else np.concatenate([part[name] for part in parts])
            for name, value in parts[0].items()}


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[2])
