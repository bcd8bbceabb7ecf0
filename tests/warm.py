"""What takes every process of tiny_run a second, done once, in the server that they are forked from; it starts no
thread.
"""

import numpy as np

import train.tasks.legged  # noqa: F401
from rfx.nn import ActorCritic

ActorCritic(8, 2, [4], rng=np.random.default_rng(0))  # opens tinygrad's device, and has its patterns compiled
