"""The same seed gives the same weights to the bit: at any number of threads, in any process."""

import functools
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e
LEARN = """
import hashlib
import numpy as np
from rfx.nn import ActorCritic, kernels
from train.ppo.rollout import Rollout
from train.ppo.update import PPO
from train.ppo.config import PPOConfig

rng = np.random.default_rng(0)
ppo = PPO(ActorCritic(48, 12, [256, 256], rng=rng), PPOConfig(num_epochs=2), 8 * 301)
digest = hashlib.sha256()
for _ in range(2):
    rollout = Rollout.empty(8, 301, 48, 12)
    for t in range(8):
        rollout.observation[t] = rng.standard_normal((301, 48))
        rollout.mean[t], rollout.value[t] = ppo.act(rollout.observation[t])
        noise = rng.standard_normal((301, 12))
        rollout.action[t] = rollout.mean[t] + 0.6 * noise
        rollout.log_prob[t] = -0.5 * (noise**2).sum(axis=1) - 12 * (np.log(0.6) + 0.5 * np.log(2 * np.pi))
    rollout.advantage[:], rollout.returns[:] = rng.standard_normal((2, 8, 301))
    metrics = ppo.update(rollout, rng)
    digest.update(repr(sorted(metrics.items())).encode() + rollout.value.tobytes())
for name, array in sorted(ppo.state_dict().items()):
    digest.update(name.encode() + array.tobytes())
print(digest.hexdigest(), kernels.num_threads(), kernels.usable())
"""


@functools.cache  # each kind of run is made once
def learn(threads, plain="", run=0):
    """Digest of metrics, values and state after two updates in a new process; threads are tinygrad's own, too."""
    environment = os.environ | {"CPU_COUNT": str(threads), "RFX_PLAIN": plain, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LEARN], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digest, seen_threads, uses_kernels = done.stdout.split()
    assert seen_threads == str(threads) and uses_kernels == str(not plain)
    return digest


def test_the_weights_do_not_depend_on_threads_or_process():
    assert learn(1) == learn(2) == learn(2, run=1) == learn(5)


@pytest.mark.long
def test_nor_do_they_on_the_plain_path():
    assert learn(1, plain="1") == learn(2, plain="1")


def test_the_two_paths_are_told_apart():
    """A digest that could not differ would prove nothing: kernels and plain tinygrad round differently."""
    assert learn(2) != learn(2, plain="1")
