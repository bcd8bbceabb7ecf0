"""Collection on a cluster of two machines, as Ray's own cluster utility plays them: across both, and on when one of
them is lost.
"""

import dataclasses
import importlib.util
import threading
from contextlib import closing

import numpy as np
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install -e '.[ray]'", allow_module_level=True)

import ray
from ray.cluster_utils import Cluster
from tiny_run import make_config

from train.runs.trainer import Trainer
from train.task.config import ScaleConfig

BARE = {
    "num_cpus": 2,
    "include_log_monitor": False,
    "no_monitor": True,
}  # a machine; what is not needed would take CPUs from its beginning
CHANGED = {"env.num_envs": 32, "env.randomize": True, "policy.history": 2, "trainer.rollout_steps": 24}


def bits(trainer: Trainer) -> dict[str, bytes | str]:
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else repr(value)
        for name, value in trainer.state_dict().items()
    }


def iterate(trainer: Trainer) -> dict[str, float]:
    return {tag: value for tag, value in trainer.iterate().items() if not tag.startswith(("time/", "scale/"))}


@pytest.mark.long
def test_a_machine_that_is_lost_costs_time_and_no_bit():
    """Four workers on two machines of two CPUs; one machine dies in the midst of a collection: all four go on, on two
    CPUs.
    """
    config, told = make_config(**CHANGED), []
    alone = Trainer(config)
    expected = [iterate(alone) for _ in range(4)]
    cluster = Cluster(initialize_head=True, head_node_args={**BARE, "include_dashboard": False})
    try:
        other = cluster.add_node(**BARE)
        scale = ScaleConfig(workers=4, threads=1, address=cluster.address)
        with closing(Trainer(dataclasses.replace(config, scale=scale))) as trainer:
            workers = trainer.collector
            workers.tell = told.append
            machines = [machine for _, machine in ray.get([actor.process.remote() for actor in workers._actors])]
            assert sorted(machines.count(machine) for machine in set(machines)) == [2, 2]
            found = [iterate(trainer)]
            killer = threading.Timer(0.02, cluster.remove_node, (other,), {"allow_graceful": False})
            killer.start()
            found += [iterate(trainer) for _ in range(2)]
            killer.join()
            metrics = trainer.iterate()
            found.append({tag: value for tag, value in metrics.items() if not tag.startswith(("time/", "scale/"))})
            assert found == expected and bits(trainer) == bits(alone)
            assert [metrics[f"scale/{name}"] for name in ("workers", "sharing_workers")] == [4, 2]
            num_died = sum(
                "died" in line for line in told
            )  # more than two where Ray began a new one on the machine that was dying
            assert (
                2 <= metrics["scale/replaced_workers"] == num_died
                and sum("shares the CPUs of others" in line for line in told) == 2
            )
            left = {machine for _, machine in ray.get([actor.process.remote() for actor in workers._actors])}
            assert len(left) == 1 and left < set(machines)
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
