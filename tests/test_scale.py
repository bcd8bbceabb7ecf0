"""Collection by Ray workers: the bits of no Ray at all, for any number of them, and when some are killed."""

import dataclasses
import functools
import importlib.util
import os
import signal
import threading

import numpy as np
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install -e '.[ray]'", allow_module_level=True)

import ray
from tiny_run import make_config

from train.config import ScaleConfig, TrainConfig
from train.errors import InputError
from train.trainer import Trainer

ITERATIONS = 3
EVERYTHING = {"env.randomize": True, "env.push_interval_s": [0.1, 0.2], "policy.history": 2, "policy.critic": "privileged"}


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def bits(trainer: Trainer) -> dict[str, bytes | str]:
    return {name: value.tobytes() if isinstance(value, np.ndarray) else repr(value) for name, value in trainer.state_dict().items()}


def iterate(trainer: Trainer, num: int = ITERATIONS) -> list[dict[str, float]]:
    return [{tag: value for tag, value in trainer.iterate().items() if not tag.startswith(("time/", "scale/"))} for _ in range(num)]


def scaled(config: TrainConfig, num_workers: int) -> Trainer:
    return Trainer(dataclasses.replace(config, scale=ScaleConfig(workers=num_workers, threads=1)))


@functools.cache
def plain(everything: bool) -> tuple[list[dict[str, float]], dict[str, bytes | str]]:
    trainer = Trainer(make_config(**(EVERYTHING if everything else {})))
    return iterate(trainer), bits(trainer)


def assert_same(metrics, found, everything: bool = False) -> None:
    expected_metrics, expected = plain(everything)
    assert [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)] == []
    assert metrics == expected_metrics


@pytest.mark.parametrize(("num_workers", "everything"), [(1, True), (3, True), (2, False)])
def test_any_number_of_workers_gives_the_bits_of_none(num_workers, everything):
    """Weights, optimizer, normalizers, and the state of every environment; and all metrics. Eight environments are 3, 3 and 2 too."""
    trainer = scaled(make_config(**(EVERYTHING if everything else {})), num_workers)
    try:
        assert_same(iterate(trainer), bits(trainer), everything)
        assert trainer.collector.num_replaced == 0
    finally:
        trainer.collector.close()


def test_a_worker_that_is_killed_is_replaced_and_no_bit_changes():
    """One between two rollouts, one in the midst of one: the first that it ever does, so that it begins with a reset."""
    trainer = scaled(make_config(), 2)
    pids = [pid for pid, _ in ray.get([actor.process.remote() for actor in trainer.collector._actors])]
    try:
        killer = threading.Timer(0.02, os.kill, (pids[1], signal.SIGKILL))
        killer.start()
        metrics = iterate(trainer, 1)
        killer.join()
        os.kill(pids[0], signal.SIGKILL)
        metrics += iterate(trainer, ITERATIONS - 1)
        assert_same(metrics, bits(trainer))
        assert trainer.collector.num_replaced == 2
    finally:
        trainer.collector.close()


def test_a_run_goes_on_with_another_number_of_workers_to_the_bit():
    one = scaled(make_config(), 2)
    begun, state = iterate(one, 1), None
    try:
        state = one.state_dict()
    finally:
        one.collector.close()
    alone, other = Trainer(make_config()), scaled(make_config(), 3)
    try:
        for trainer in (alone, other):
            trainer.load_state_dict(state)
            assert_same(begun + iterate(trainer, ITERATIONS - 1), bits(trainer))
    finally:
        other.collector.close()


def test_what_cannot_be_is_said_in_one_line():
    with pytest.raises(InputError, match="scale.workers=8 of 1 threads need 8 CPUs, and the Ray cluster has 4"):
        scaled(make_config(), 8)
    with pytest.raises(ValueError, match="scale.workers is 9: it must be at most env.num_envs, 8"):
        scaled(make_config(), 9)
