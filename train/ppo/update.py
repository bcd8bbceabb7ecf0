"""PPO on one rollout: epochs of minibatch steps that stay on the device until the update ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
from tinygrad import Tensor, TinyJit, dtypes

from rfx.nn import TrainablePolicy, kernels
from rfx.nn.dense import Training
from rfx.nn.kernels import Kernel
from train.ppo.categorical import bind_gradient, categorical_gradient
from train.ppo.config import PPOConfig
from train.ppo.forward import Forward, allocate, layer_memory, upload
from train.ppo.losses import TERMS, LossKernel, Minibatch, ppo_gradient
from train.ppo.optimizer import SUMS, Adam
from train.ppo.rollout import Array, Rollout
from train.ppo.symmetry import Symmetry

BATCH_FIELDS = tuple(field.name for field in fields(Minibatch))
OPTIONAL_FIELDS = ("critic_observation",)


class PPO(Forward):
    """The learner: a policy's forward pass for collection, and its update on one rollout of batch_size samples.

    With a symmetry, the policy's weights become, and stay, their own mirror image. Raises ValueError if the batch does
    not split into equal minibatches, or if weights are not float32.
    """

    def __init__(self, policy: TrainablePolicy, config: PPOConfig, batch_size: int, symmetry: Symmetry | None = None):
        if batch_size % config.num_minibatches:
            raise ValueError(
                f"a rollout of {batch_size} samples does not split into {config.num_minibatches} equal minibatches"
            )
        super().__init__(policy)
        self.config, self.symmetry = config, symmetry
        if symmetry:
            for name, parameter in self.parameters.items():
                upload(parameter, symmetry.initial(name, parameter.numpy()))
        self.optimizer = Adam(
            list(self.parameters.values()), config.learning_rate, config.max_gradient_norm, config.desired_kl
        )
        num_steps, num_actions, num_inputs = (
            config.num_epochs * config.num_minibatches,
            policy.act_dim,
            policy.history * policy.obs_dim,
        )
        widths = {"observation": num_inputs, "action": num_actions, "mean": num_actions}
        if policy.critic_dim:
            widths["critic_observation"] = policy.critic_dim
        self._fields = [name for name in BATCH_FIELDS if name in widths or name not in OPTIONAL_FIELDS]
        self._rollout = Minibatch(
            **{name: allocate(batch_size, *([widths[name]] if name in widths else [])) for name in self._fields}
        )
        self._old_log_std = allocate(num_actions)
        # The rows of every minibatch, and the index of the next minibatch
        self._order = allocate(num_steps, batch_size // config.num_minibatches, dtype=dtypes.int32)
        self._position = allocate(1, dtype=dtypes.int32)
        self._step = self._kernel_step() if self._uses_kernels else TinyJit(self._minibatch_step)

    def update(self, rollout: Rollout, rng: np.random.Generator) -> dict[str, float]:
        """Run all epochs on the rollout, each in new random minibatches.

        A minibatch whose loss or gradient is not finite is skipped. Returns the loss terms and the gradient norm, as
        means over the other minibatches; the last learning rate; and the number of skipped minibatches. Raises
        ValueError for a rollout of another size.
        """
        batch_size, order = self._rollout.action.shape[0], self._order
        if rollout.reward.size != batch_size:
            raise ValueError(
                f"got a rollout of {' x '.join(map(str, rollout.reward.shape))} samples; this learner was made for {batch_size}"
            )
        for name in self._fields:
            target = getattr(self._rollout, name)
            upload(target, getattr(rollout, name).reshape(target.shape))
        if not self.categorical:
            upload(self._old_log_std, self.policy.log_std.numpy())
        upload(
            order, np.stack([rng.permutation(batch_size) for _ in range(self.config.num_epochs)]).reshape(order.shape)
        )
        upload(self._position, np.zeros(1))
        upload(self.optimizer.sums, np.zeros(len(SUMS)))
        for _ in range(order.shape[0]):
            self._step()
        sums = dict(zip(SUMS, self.optimizer.sums.numpy().tolist()))
        skipped = sums.pop("skipped_minibatches")
        metrics = {name: value / max(order.shape[0] - skipped, 1.0) for name, value in sums.items()}
        return metrics | {"learning_rate": float(self.optimizer.state.numpy()[1]), "skipped_minibatches": skipped}

    def _kernel_step(self) -> Callable[[], None]:
        """Make a function that trains on the next minibatch in C: rows, forward pass, loss, gradient, Adam."""
        num_rows, num_actions = self._order.shape[1], self.policy.act_dim
        sources = {name: kernels.memory(getattr(self._rollout, name)) for name in self._fields}
        batch = {name: np.empty((num_rows, *source.shape[1:]), np.float32) for name, source in sources.items()}
        output, d_output = (np.zeros((num_rows, num_actions + 1), np.float32) for _ in range(2))

        gradients = {name: np.empty(tensor.shape, np.float32) for name, tensor in self.parameters.items()}
        of = {id(tensor): gradients[name] for name, tensor in self.parameters.items()}
        passes = [
            Training(
                x,
                *layer_memory(layers),
                num_hidden,
                output[:, columns],
                d_output[:, columns],
                [of[id(layer.weight)] for layer in layers],
                [of[id(layer.bias)] for layer in layers],
                self.policy.activation,
            )
            for x, layers, num_hidden, columns in self._networks(batch["observation"], batch.get("critic_observation"))
        ]
        terms = np.empty(len(TERMS), np.float32)
        learned_from = [batch[name] for name in ("action", "mean", "log_prob", "advantage", "returns")]
        steps = [
            rows_kernel(num_rows, [source[0].size for source in sources.values()]).bind(
                *batch.values(), kernels.memory(self._position), *sources.values(), kernels.memory(self._order)
            )
        ]
        steps += [network.forward for network in passes]
        if self.categorical:
            steps.append(bind_gradient(d_output, terms, output, *learned_from, **self._coefficients))
        else:
            loss = LossKernel(num_rows, num_actions, **self._coefficients)
            steps.append(
                loss.kernel.bind(
                    d_output,
                    gradients["log_std"],
                    terms,
                    loss.partials(),
                    output,
                    kernels.memory(self.policy.log_std),
                    *learned_from,
                    kernels.memory(self._old_log_std),
                )
            )
        steps += [network.backward for network in passes]
        if self.symmetry:
            symmetrize, gradients = self.symmetry.bind(gradients)
            steps.append(symmetrize)
        steps.append(self.optimizer.bind(list(gradients.values()), terms))

        def step() -> None:
            for call in steps:
                call()

        return step

    def _minibatch_step(self) -> list[Tensor]:
        """Train on the next minibatch in plain tinygrad, on any device."""
        log_std, weights = getattr(self.policy, "log_std", None), list(self.parameters.values())
        batch, advance = take_rows(self._rollout, self._order, self._position)
        inputs = (
            [batch.observation] if batch.critic_observation is None else [batch.observation, batch.critic_observation]
        )
        output = self.policy.output(*inputs)
        if self.categorical:
            (d_output, terms), d_log_std = categorical_gradient(output, batch, **self._coefficients), None
        else:
            d_output, d_log_std, terms = ppo_gradient(output, log_std, batch, self._old_log_std, **self._coefficients)
        through_network = iter(
            output.gradient(*(weight for weight in weights if weight is not log_std), gradient=d_output)
        )
        gradients = [d_log_std if weight is log_std else next(through_network) for weight in weights]
        if self.symmetry:
            gradients = [self.symmetry.gradient(name, gradient) for name, gradient in zip(self.parameters, gradients)]
        changed = self.optimizer.step(gradients, terms)
        return Tensor.realize(*changed, advance)

    @property
    def _coefficients(self) -> dict[str, float]:
        """The settings of the loss."""
        return {name: getattr(self.config, name) for name in ("clip", "value_coefficient", "entropy_coefficient")}

    def state_dict(self) -> dict[str, Array]:
        """Everything that an update changes: weights, Adam moments, step and learning rate."""
        return {name: tensor.numpy().copy() for name, tensor in self._state().items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Continue from the state that state_dict returned, bit for bit.

        Raises ValueError if a name or a shape differs.
        """
        own = self._state()
        if own.keys() != state.keys():
            raise ValueError(
                f"the saved learner and this one differ in {sorted(own.keys() ^ state.keys())}; load the run that saved it"
            )
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"the saved learner's {name} has shape {state[name].shape}, this one's {tensor.shape}")
            upload(tensor, state[name])

    def limit_std(self, highest: float) -> None:
        """Limit the standard deviations of exploration to highest; this does nothing for discrete actions."""
        if self.categorical:
            return
        upload(self.policy.log_std, np.minimum(self.policy.log_std.numpy(), math.log(highest)))

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate; with desired_kl it adapts from there."""
        upload(self.optimizer.state, np.array([self.optimizer.state.numpy()[0], rate]))

    def _state(self) -> dict[str, Tensor]:
        adam = {name: getattr(self.optimizer, name) for name in ("first_moment", "second_moment", "state")}
        return {f"policy.{name}": tensor for name, tensor in self.parameters.items()} | {
            f"adam.{name}": t for name, t in adam.items()
        }


def take_rows(rollout: Minibatch, order: Tensor, position: Tensor) -> tuple[Minibatch, Tensor]:
    """Take the rows order[position] of every array, and add one to position; neither is realized yet.

    order (steps, B) and position (1,) are int32.
    """
    rows = order[position.squeeze()].contiguous()  # without contiguous, tinygrad compares every row with every index
    given = {name: source[rows] for name in BATCH_FIELDS if (source := getattr(rollout, name)) is not None}
    return Minibatch(**given), position.assign(position + 1)


def rows_kernel(num_rows: int, widths: list[int]) -> Kernel:
    """take_rows in C; its buffers are the arrays to fill, position, the arrays to take from, and order."""
    text = (
        kernels.program_text(
            constants={"ROWS": num_rows, "BLOCK": 256, "ARRAYS": len(widths)}, arrays={"width": widths}
        )
        + """
static void take_block(float* const* b, long block, int thread) {
  const int* rows = (const int*)b[2 * ARRAYS + 1] + (long)*(int*)b[ARRAYS] * ROWS;
  const long end = (block + 1) * BLOCK < ROWS ? (block + 1) * BLOCK : ROWS;
  for (int a = 0; a < ARRAYS; a++) for (long i = block * BLOCK; i < end; i++) {
    const float* restrict from = b[ARRAYS + 1 + a] + (long)rows[i] * width[a];
    const float* soon = b[ARRAYS + 1 + a] + (long)rows[i + 16 < ROWS ? i + 16 : i] * width[a];
    for (int k = 0; k < width[a]; k += 16) __builtin_prefetch(soon + k);  // rows lie anywhere in memory
    float* restrict to = b[a] + i * width[a];
    for (int k = 0; k < width[a]; k++) to[k] = from[k];
  }
}
static void take_rows(float* const* b, Pool* pool) {
  run(pool, take_block, b, (ROWS + BLOCK - 1) / BLOCK);
  ++*(int*)b[ARRAYS];
}
"""
    )
    return Kernel("take_rows", text)
