"""Collects rollouts with Ray actors, each with a share of the environments.

The rollout is the same, bit for bit, for any number of actors.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rfx.policy.normalizer import ObservationNormalizer
from rfx.system.outside import outside
from train.ppo.check_env import check_env
from train.ppo.collector import Collector
from train.ppo.errors import TrainingBroken
from train.ppo.forward import Forward
from train.ppo.rollout import Array, Rollout
from train.scale import cluster
from train.scale.changes import merged
from train.scale.worker import Share, Worker
from train.task.config import ExportConfig, TrainConfig
from train.task.errors import InputError, one_line
from train.task.flat import values_of
from train.task.modules import foreign_names_of, sources_of
from train.task.task import Task

DEATHS = 3  # most worker deaths of one share in one iteration that can be accidents
CHECK_S = 5.0  # seconds without an answer before checking whether a new worker waits for CPUs of a dead machine


class Workers:
    """A Collector that is spread over config.scale.workers Ray actors. seeds are those of Collector.

    Weights are sent once per iteration, through the object store, and rollouts come back as a few large arrays. With
    its rollout each worker also sends the changes of its environments' state. If a worker dies, a new one starts from
    the end of the last rollout and repeats the iteration. env is one local environment: it gives the spaces and sums up
    metrics. tell is called with a line for each worker that dies. Raises InputError if there is no cluster, or if it is
    too small.
    """

    history = None  # the workers have it

    def __init__(self, config: TrainConfig, task: Task, seeds: Mapping[str, int]):
        num, num_envs = config.scale.workers, config.env.num_envs
        edges = [i * num_envs // num for i in range(num + 1)]
        self.rows = [range(*pair) for pair in zip(edges, edges[1:])]
        first = task.make_env(range(1))
        check_env(first, config.policy.critic == "privileged")
        template = Collector(first, **seeds, state_dim=task.state_dim)
        self.env, self.observation, self.state_dim = first, template.observation, template.state_dim
        self.tell: Callable[[str], None] = lambda line: None
        self.num_replaced, self._actors = 0, []
        alone = dataclasses.replace(config, scale=None, export=ExportConfig())
        self._share = Share(
            values=values_of(alone),
            sources=sources_of(foreign_names_of(config, task)),
            directory=os.getcwd(),
            rows=range(0),
            seeds=dict(seeds),
            state_dim=self.state_dim,
        )
        self._joined_here = cluster.join(config.scale.address, num * max(1, config.scale.threads))
        try:
            self.threads = config.scale.threads or cluster.threads_that_fit(num)
            cluster.check_fits(num, self.threads)
        except InputError:
            self.close()
            raise
        self._sharing: set[int] = set()  # shares whose worker found no free CPUs
        self._silent = set(range(num))  # shares whose worker has not answered yet, and may be waiting for CPUs
        self._actors = [self._start(i) for i in range(num)]
        self._states: list[dict[str, Any]] = [
            {} for _ in self.rows
        ]  # the states from which each share's next rollout begins; empty: a reset
        self._measured: list[dict[str, Array]] = []
        self._times: dict[str, float] = {}

    def _start(self, i: int) -> Any:
        """Start a worker for share i.

        It gets its own CPUs. If the remaining machines have too few, it shares the CPUs of other workers.
        """
        import ray

        (self._sharing.add if self._lacks_cpus(i) else self._sharing.discard)(i)
        self._silent.add(i)
        options = {
            "num_cpus": 0 if i in self._sharing else self.threads,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,
        }
        share = dataclasses.replace(self._share, rows=self.rows[i])
        return ray.remote(Worker).options(**options).remote(share, self.threads)

    def _lacks_cpus(self, i: int) -> bool:
        """Whether the remaining machines have too few CPUs for share i beside the workers that have their own."""
        return cluster.num_that_fit(self.threads) < len(self.rows) - len(self._sharing - {i})

    def collect(
        self,
        forward: Forward,
        rollout: Rollout,
        normalizer: ObservationNormalizer,
        critic_normalizer: ObservationNormalizer | None = None,
    ) -> Array:
        """Collect as Collector does. Raises TrainingBroken if a share's workers keep dying, or cannot start."""
        import ray

        begin = time.perf_counter()
        with outside("the Ray cluster"):
            given = ray.put(
                (forward.weights(), normalizer.to_dict(), critic_normalizer and critic_normalizer.to_dict())
            )
        value, results = np.empty(rollout.reward.shape[1], np.float32), {}
        sent = time.perf_counter()
        for i, result in self._ask(lambda i: self._actors[i].collect.remote(given)):
            arrived, cut, results[i] = time.perf_counter(), slice(self.rows[i].start, self.rows[i].stop), result
            for name, values in result.arrays.items():
                getattr(rollout, name)[:, cut] = values
            value[cut] = result.value
        if (
            rollout.observation.shape == rollout.raw_observation.shape
        ):  # no history: recomputing it is quicker than sending it
            normalizer.normalize(_flat(rollout.raw_observation), out=_flat(rollout.observation))
        if critic_normalizer:
            critic_normalizer.normalize(_flat(rollout.raw_critic_observation), out=_flat(rollout.critic_observation))
        self._states = [merged(state, results[i].changed) for i, state in enumerate(self._states)]
        self._measured = [results[i].measured for i in range(len(self.rows))]
        slowest_s, end = max(result.seconds for result in results.values()), time.perf_counter()
        self._times = {
            "time/ray_s": end - begin - slowest_s,
            "time/ray_send_s": sent - begin,
            "time/ray_travel_s": arrived - sent - slowest_s,
            "time/ray_take_in_s": end - arrived,
            "scale/received_mb": 1e-6 * sum(result.num_bytes for result in results.values()),
        }
        return value

    def _ask(self, call: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
        """Call every worker and yield the answers as they arrive, each with its share.

        call(i) calls the worker of share i; it is called again after that worker was replaced. Raises the errors of
        workers, and TrainingBroken if a worker cannot start, or if too many die.
        """
        import ray
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        waiting, deaths = {call(i): i for i in range(len(self.rows))}, 0
        while waiting:
            with outside("the Ray cluster"):
                answered, _ = ray.wait([*waiting], num_returns=1, timeout=CHECK_S)
            # The callers of workers learn of a machine's death first: replacements may have been promised its CPUs.
            if not answered:
                for reference, i in [*waiting.items()]:
                    if i in self._silent - self._sharing and self._lacks_cpus(i):
                        del waiting[reference]
                        self._begin_again(i)
                        self.tell(f"worker {i + 1} of {len(self.rows)} shares the CPUs of others, as there are too few")
                        waiting[call(i)] = i
                continue
            (reference,) = answered
            i = waiting.pop(reference)
            try:
                answer = ray.get(reference)
            except RayTaskError as error:
                raise error.cause from error
            except (RayActorError, ObjectLostError) as error:
                deaths += 1
                if getattr(error, "actor_init_failed", False):
                    raise TrainingBroken(
                        f"a worker cannot begin: {_last_line(error)}. Every machine needs this repository at the same commit "
                        "and path, and the same packages: docs/scale.md"
                    ) from error
                if deaths > DEATHS * len(self.rows):
                    raise TrainingBroken(
                        f"workers died {deaths} times in one iteration, the last of: {_last_line(error)}"
                    ) from error
                self._replace(i)
                waiting[call(i)] = i
            else:
                self._silent.discard(i)
                yield i, answer

    def _replace(self, i: int) -> None:
        """Start a new worker for share i, whose worker has died."""
        self.num_replaced += 1
        self._begin_again(i)
        self.tell(
            f"worker {i + 1} of {len(self.rows)} died; another one does its part again"
            + (", slower: it shares the CPUs of others, as there are too few" if i in self._sharing else "")
        )

    def _begin_again(self, i: int) -> None:
        """Start a new worker for share i, from the state at the end of its last rollout."""
        import ray

        ray.kill(self._actors[i])  # it may be alive, but have lost what it sent
        self._actors[i] = self._start(i)
        if self._states[i]:
            self._actors[i].load_state_dict.remote(self._states[i])

    def metrics(self) -> dict[str, float]:
        """The metrics of Collector, the counts of workers, and the cost of Ray in the last collection.

        The cost is the collection's time beyond the work of the slowest worker, in parts.
        """
        tags = self._times | {
            "scale/workers": len(self.rows),
            "scale/replaced_workers": self.num_replaced,
            "scale/sharing_workers": len(self._sharing),
        }
        measured, self._measured = self._measured, []
        return tags | self.env.unwrapped.summarize(_joined(measured)) if any(measured) else tags

    def state_dict(self) -> dict[str, Any]:
        """The state as in Collector, of all environments in their order."""
        if not all(self._states):
            for i, state in self._ask(lambda i: self._actors[i].state_dict.remote()):
                self._states[i] = state
        return _joined(self._states)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state as Collector does."""
        ours = {
            name: values
            for name, values in state.items()
            if name.partition(".")[0] in ("noise", "env", "observation", "history")
        }
        self._states = [{name: values[rows.start : rows.stop] for name, values in ours.items()} for rows in self.rows]
        for _ in self._ask(lambda i: self._actors[i].load_state_dict.remote(self._states[i])):
            pass

    def close(self) -> None:
        """End the workers, and Ray if it was started for them; otherwise leave the cluster."""
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
            if self._joined_here:
                ray.shutdown()


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of all shares in order, for arrays and lists."""
    return {
        name: sum((part[name] for part in parts), [])
        if isinstance(value, list)
        else np.concatenate([part[name] for part in parts])
        for name, value in parts[0].items()
    }


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[2])


def _last_line(error: Exception) -> str:
    return one_line((str(error).strip() or type(error).__name__).splitlines()[-1])
