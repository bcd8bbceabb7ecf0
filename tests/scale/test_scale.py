"""Collection by Ray workers: the bits of no Ray at all, for any number of them, and when some are killed."""

import dataclasses
import functools
import importlib.util
import os
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install -e '.[ray]'", allow_module_level=True)

import ray
from tiny_run import make_config

from train.ppo.errors import TrainingBroken
from train.runs.trainer import Trainer
from train.scale import cluster
from train.scale.changes import changes, merged
from train.scale.workers import Workers
from train.task.config import ScaleConfig, TrainConfig
from train.task.errors import InputError

ITERATIONS = 3
EVERYTHING = {
    "env.randomize": True,
    "env.push_interval_s": [0.1, 0.2],
    "policy.history": 2,
    "policy.critic": "privileged",
}
KILLED_RUNS = 20


@pytest.fixture(scope="module")
def local_ray():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def bits(trainer: Trainer) -> dict[str, bytes | str]:
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else repr(value)
        for name, value in trainer.state_dict().items()
    }


def iterate(trainer: Trainer, num: int = ITERATIONS) -> list[dict[str, float]]:
    return [
        {tag: value for tag, value in trainer.iterate().items() if not tag.startswith(("time/", "scale/"))}
        for _ in range(num)
    ]


def scaled(config: TrainConfig, num_workers: int) -> closing[Trainer]:
    return closing(Trainer(dataclasses.replace(config, scale=ScaleConfig(workers=num_workers, threads=1))))


def processes(workers: Workers) -> list[int]:
    """Their numbers, once all are ready."""
    return [pid for pid, _ in ray.get([actor.process.remote() for actor in workers._actors])]


@functools.cache
def plain(num: int = ITERATIONS, **changed) -> tuple[list[dict[str, float]], dict[str, bytes | str]]:
    trainer = Trainer(make_config(**{key.replace("__", "."): value for key, value in changed.items()}))
    return iterate(trainer, num), bits(trainer)


def assert_same(found: tuple, expected: tuple) -> None:
    """Same metrics, and same weights, optimizer, normalizers, and state of every environment."""
    assert [name for name in expected[1].keys() | found[1].keys() if found[1].get(name) != expected[1].get(name)] == []
    assert found[0] == expected[0]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("num_workers", "everything"),
    [
        (1, False),
        (4, True),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((1, True), (2, True), (2, False), (3, True), (4, False))
        ),
    ],
)
def test_any_number_of_workers_gives_the_bits_of_none(num_workers, everything):
    """Eight environments are 3, 3 and 2 too."""
    config = make_config(**(EVERYTHING if everything else {}))
    alone = Trainer(config)
    with scaled(config, num_workers) as trainer:
        assert_same((iterate(trainer), bits(trainer)), (iterate(alone), bits(alone)))
        assert trainer.collector.num_replaced == 0


@pytest.mark.usefixtures("local_ray")
@pytest.mark.e2e
def test_a_worker_that_is_killed_is_replaced_and_no_bit_changes():
    """One in the midst of a rollout: the first that it ever does, so that it begins with a reset; one between two
    rollouts.
    """
    with scaled(make_config(), 2) as trainer:
        told = []
        trainer.collector.tell = told.append
        pids = processes(trainer.collector)
        killer = threading.Timer(0.02, os.kill, (pids[1], signal.SIGKILL))
        killer.start()
        metrics = iterate(trainer, 1)
        killer.join()
        os.kill(pids[0], signal.SIGKILL)
        metrics += iterate(trainer, ITERATIONS - 1)
        assert_same((metrics, bits(trainer)), plain())
        assert trainer.collector.num_replaced == 2
        assert [line.partition(":")[0] for line in told] == [
            f"worker {i} of 2 died; another one does its part again" for i in (2, 1)
        ]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_twenty_runs_with_a_worker_killed_at_a_random_moment_end_with_the_same_bits(capsys):
    """In each one of two workers, in a random iteration but the last, after a random share of the time that the one
    before it took.
    """
    config, num = (
        make_config(**{"env.num_envs": 32, "env.randomize": True, "policy.history": 2, "trainer.rollout_steps": 24}),
        6,
    )
    alone, rng = Trainer(config), np.random.default_rng(16)
    expected = iterate(alone, num), bits(alone)
    for run in range(KILLED_RUNS):
        with scaled(config, 2) as trainer:
            killed, iteration, share = int(rng.integers(2)), int(rng.integers(num - 1)), rng.random()
            pids, metrics, seconds = processes(trainer.collector), [], 0.3
            for i in range(num):
                if i == iteration:
                    killer = threading.Timer(share * seconds, os.kill, (pids[killed], signal.SIGKILL))
                    killer.start()
                begin = time.perf_counter()
                metrics += iterate(trainer, 1)
                seconds = time.perf_counter() - begin
            killer.join()
            with capsys.disabled():
                print(
                    f"run {run + 1}: worker {killed} killed {1e3 * killer.interval:.0f} ms after the beginning of iteration {iteration}"
                )
            assert_same((metrics, bits(trainer)), expected)
            assert trainer.collector.num_replaced == 1


@pytest.mark.usefixtures("local_ray")
@pytest.mark.e2e
def test_a_run_goes_on_with_another_number_of_workers_to_the_bit():
    with scaled(make_config(), 2) as one:
        begun, state = iterate(one, 1), one.state_dict()
    alone = Trainer(make_config())
    with scaled(make_config(), 3) as other:
        for trainer in (alone, other):
            trainer.load_state_dict(state)
            assert_same((begun + iterate(trainer, ITERATIONS - 1), bits(trainer)), plain())


@pytest.mark.usefixtures("local_ray")
@pytest.mark.e2e
def test_what_cannot_be_is_said_in_one_line(monkeypatch):
    with pytest.raises(
        InputError, match="scale.workers=8 of 1 threads need 8 CPUs, and the Ray cluster has 4: add machines"
    ):
        scaled(make_config(), 8)
    with pytest.raises(ValueError, match="scale.workers is 9: it must be at most env.num_envs, 8"):
        scaled(make_config(), 9)
    monkeypatch.setattr("train.scale.cluster.cpus", lambda: [6, 3])
    with pytest.raises(InputError, match=r"scale.workers=2 of 4 threads need 8 CPUs, and the Ray cluster has 6 \+ 3: "):
        Trainer(dataclasses.replace(make_config(), scale=ScaleConfig(workers=2, threads=4)))


@pytest.mark.parametrize(
    ("cpus", "num_workers", "threads"),
    [([8], 2, 4), ([8], 3, 2), ([6, 3], 2, 3), ([6, 3], 3, 3), ([2, 2, 2], 4, 1), ([2], 5, 1)],
)
def test_workers_have_as_many_threads_as_fit(monkeypatch, cpus, num_workers, threads):
    """By hand: a worker's threads are on one machine."""
    monkeypatch.setattr(cluster, "cpus", lambda: cpus)
    assert cluster.threads_that_fit(num_workers) == threads


@pytest.mark.usefixtures("local_ray")
@pytest.mark.e2e
def test_a_worker_that_cannot_begin_ends_the_run_with_the_reason():
    """As on a machine whose checkout is another: what a worker is given it cannot read."""
    with scaled(make_config(), 1) as trainer:
        workers = trainer.collector
        workers._share = dataclasses.replace(workers._share, values={**workers._share.values, "task": "nothing"})
        workers._replace(0)
        with pytest.raises(TrainingBroken, match="a worker cannot begin: .*unknown task 'nothing'.*docs/scale.md"):
            trainer.iterate()


def test_what_changed_is_merged_into_what_it_was():
    """Also a zero whose sign changes, what is not a number, a list and an array that was not there; and nothing else is
    sent.
    """
    before = {
        "a": np.zeros((4, 2)),
        "b": np.array([np.nan, 1.0, 2.0, 3.0], np.float32),
        "c": np.zeros((4, 0)),
        "d": [1, 2, 3, 4],
    }
    after = {
        "a": before["a"].copy(),
        "b": before["b"].copy(),
        "c": np.zeros((4, 0)),
        "d": [1, 2, 5, 4],
        "e": np.array([True] * 4),
    }
    after["a"][1, 0], after["a"][3, 1] = -0.0, 7.0
    changed = changes(before, after)
    assert {name: None if rows is None else rows.tolist() for name, (rows, _) in changed.items()} == {
        "a": [1, 3],
        "b": [],
        "c": [],
        "d": None,
        "e": None,
    }
    now = merged(before, changed)
    assert {name: np.array(value).tobytes() for name, value in now.items()} == {
        name: np.array(value).tobytes() for name, value in after.items()
    }
    assert not before["a"].any()
