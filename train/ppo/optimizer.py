"""Adam for PPO, with gradient clipping, a learning rate that follows the KL, and no step on non-finite gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tinygrad import Tensor

from rfx.nn import kernels
from rfx.nn.kernels import Kernel
from train.ppo.losses import TERMS

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, algorithm 1
# Before a step, the learning rate is divided by this factor if the KL is above twice desired_kl, and multiplied by it if the KL
# is below half. As in rsl_rl's PPO.
RATE_FACTOR, MIN_RATE, MAX_RATE = 1.5, 1e-5, 1e-2
BLOCK = 4096  # a thread takes this many parameters at a time
SUMS = (*TERMS[:-1], "gradient_norm", "skipped_minibatches")  # over the steps since the last reset


class Adam:
    """Adam and its state on the device: moments, step, learning rate, and sums of loss terms.

    It clips the global norm of the gradient, and skips a step whose loss or gradient is not finite.
    """

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, max_gradient_norm: float, desired_kl: float | None
    ):
        self.parameters, self.max_gradient_norm, self.desired_kl = list(parameters), max_gradient_norm, desired_kl
        size = sum(parameter.numel() for parameter in parameters)
        self.first_moment, self.second_moment = (Tensor(np.zeros(size, np.float32)) for _ in range(2))
        self.state = Tensor(np.array([0.0, learning_rate], np.float32))  # step, learning rate
        self.sums = Tensor(np.zeros(len(SUMS), np.float32))
        Tensor.realize(self.first_moment, self.second_moment, self.state, self.sums)

    @property
    def kernel(self) -> Kernel:
        """One step as a C kernel; optimizer.c lists its buffers."""
        sizes = [parameter.numel() for parameter in self.parameters]
        desired_kl = -1.0 if self.desired_kl is None else self.desired_kl
        constants = {
            "PIECES": len(sizes),
            "BLOCK": BLOCK,
            "BLOCKS": self._num_blocks,
            "TERMS": len(TERMS),
            "KL": TERMS.index("kl"),
            "MAX_NORM": f"{float(self.max_gradient_norm)}f",
            "DESIRED_KL": f"{float(desired_kl)}f",
            "RATE_FACTOR": f"{RATE_FACTOR}f",
            "MIN_RATE": f"{MIN_RATE}f",
            "MAX_RATE": f"{MAX_RATE}f",
            "BETA1": BETA1,
            "BETA2": BETA2,
            "EPSILON": f"{EPSILON}f",
        }
        text = kernels.program_text(
            "vector.c", Path(__file__).with_name("optimizer.c"), constants=constants, arrays={"piece_size": sizes}
        )
        return Kernel("adam", text)

    @property
    def _num_blocks(self) -> int:
        return sum(-(-parameter.numel() // BLOCK) for parameter in self.parameters)

    def bind(self, gradients: Sequence[np.ndarray], terms: np.ndarray) -> Callable[[], None]:
        """Make a function that does `step` in C, on the gradients and terms in these arrays at each call."""
        own = [
            kernels.memory(tensor)
            for tensor in (*self.parameters, self.first_moment, self.second_moment, self.state, self.sums)
        ]
        return self.kernel.bind(*own, *gradients, terms, np.empty(2 * (self._num_blocks + 1), np.float32))

    def step(self, gradients: Sequence[Tensor], terms: Tensor) -> list[Tensor]:
        """Take one step on the gradients of a loss with these terms (6,), `train.ppo.losses.TERMS`.

        Returns the tensors that change, not yet realized.
        """
        # contiguous() makes tinygrad compute the gradient once, not once for each use.
        gradient = Tensor.cat(*(g.contiguous().flatten() for g in gradients)).contiguous()
        norm, kl, terms = gradient.square().sum().sqrt().contiguous(), terms[TERMS.index("kl")], terms.contiguous()
        good = norm.isfinite() & terms[-1].isfinite()
        step, rate = self.state[0] + 1.0, self.state[1]
        if self.desired_kl is not None:
            slower, faster = (rate / RATE_FACTOR).maximum(MIN_RATE), (rate * RATE_FACTOR).minimum(MAX_RATE)
            rate = (kl > 2.0 * self.desired_kl).where(slower, (kl < 0.5 * self.desired_kl).where(faster, rate))
        gradient = gradient * (self.max_gradient_norm / (norm + 1e-6)).minimum(1.0)
        first = BETA1 * self.first_moment + (1.0 - BETA1) * gradient
        second = BETA2 * self.second_moment + (1.0 - BETA2) * gradient.square()
        change = rate / (1.0 - BETA1**step) * first / ((second / (1.0 - BETA2**step)).sqrt() + EPSILON)
        pieces = change.split([parameter.numel() for parameter in self.parameters])
        new = [parameter - piece.reshape(parameter.shape) for parameter, piece in zip(self.parameters, pieces)]
        new += [
            first,
            second,
            Tensor.stack(step, rate),
            self.sums + Tensor.stack(*(terms[i] for i in range(5)), norm, norm * 0.0),
        ]
        old = [
            *self.parameters,
            self.first_moment,
            self.second_moment,
            self.state,
            self.sums + Tensor([0.0] * (len(SUMS) - 1) + [1.0]),
        ]
        changing = [*self.parameters, self.first_moment, self.second_moment, self.state, self.sums]
        values = [good.where(n, o).contiguous() for n, o in zip(new, old)]
        return [tensor.assign(value) for tensor, value in zip(changing, values)]
