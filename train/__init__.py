"""PPO: rollout, GAE, losses, update, trainer loop, checkpoints, metrics, evaluation, benchmark."""

import os
from pathlib import Path

# OpenBLAS threads spin after a product, on the cores that mujoco.batch needs: an evaluation of 256 robots takes 35 s
# with two, 10 s with one.
# NumPy reads this when it is first imported; products that pay for threads run in rfx.nn.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# tinygrad's device: alone it would try one GPU driver after the other (0.3 s), and take a GPU where there is one. The
# CPU is faster for
# networks as small as a policy. tinygrad reads this when it is first imported.
os.environ.setdefault("DEV", "CPU")

# python -m train.evaluate is train/commands/evaluate.py, as it always was.
__path__.append(str(Path(__file__).with_name("commands")))
