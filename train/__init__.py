"""PPO: rollout, GAE, losses, update, trainer loop, checkpoints, metrics, evaluation, benchmark."""

import os

# OpenBLAS threads spin after a product, on the cores that mujoco.batch needs: an evaluation of 256 robots takes 35 s with two, 10 s with one.
# NumPy reads this when it is first imported; products that pay for threads run in tinygrad.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
