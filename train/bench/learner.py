"""`python -m train.bench.learner`: compares our learner with PyTorch, and our inference with other runtimes.

Both learners do the same update on the same rollout: network 64-256-256-(12 + 1), five epochs of four minibatches in
random order, the loss with its KL, clipped gradient norm, Adam, a learning rate adapted to the KL. They take turns in
one process, with the same number of threads. Inference is measured for one observation at a time.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import fields

import numpy as np

import rfx
from rfx.nn import ActorCritic, kernels
from rfx.policy.normalizer import ObservationNormalizer
from train.ppo.config import PPOConfig
from train.ppo.losses import Minibatch
from train.ppo.rollout import Rollout
from train.ppo.update import PPO

OBSERVATION_DIM, NUM_ACTIONS, HIDDEN = 64, 12, [256, 256]
ROUNDS = {1536: 15, 6144: 9, 24576: 5}  # number of rounds by minibatch size
PAUSE_S = 0.05  # between turns, so that the other's threads fall asleep
TURNS, CALLS_A_TURN, SPACING_S = 8, 250, 0.001  # for inference


def measure_learner(tell: Callable[[str], None] = lambda doing: None) -> dict[str, float]:
    """Medians by flat name: update samples/s at each minibatch size, and inference latency in us.

    Includes PyTorch and ONNX Runtime if they are installed.
    """
    figures: dict[str, float] = {}
    for minibatch, rounds in ROUNDS.items():
        tell(f"updates of minibatches of {minibatch}")
        figures |= {f"learner_{minibatch}_{name}": value for name, value in compare_updates(minibatch, rounds).items()}
    tell("inference of one observation")
    return figures | compare_inference()


def compare_updates(minibatch: int, rounds: int) -> dict[str, float]:
    """Samples/s of an update, ours and PyTorch's, and the ratio ours / PyTorch's.

    Each is the median over rounds in which each learner does one update in turn.
    """
    config, rollout = PPOConfig(), example_rollout(4, minibatch)
    num_samples = config.num_epochs * rollout.reward.size
    learners = {
        "": PPO(
            ActorCritic(OBSERVATION_DIM, NUM_ACTIONS, HIDDEN, rng=np.random.default_rng(0)), config, rollout.reward.size
        )
    }
    if importlib.util.find_spec("torch"):
        learners["torch_"] = TorchPPO(learners[""].state_dict(), config)
    times: dict[str, list[float]] = {name: [] for name in learners}
    for i in range(-3, rounds):  # the first rounds compile and warm up
        for name, learner in learners.items():
            time.sleep(PAUSE_S)
            begin = time.perf_counter()
            learner.update(rollout, np.random.default_rng(i + 3))
            if i >= 0:
                times[name].append(time.perf_counter() - begin)
    rates = {f"{name}samples_per_s": num_samples / statistics.median(seconds) for name, seconds in times.items()}
    if "torch_samples_per_s" in rates:
        rates["times_torch"] = rates["samples_per_s"] / rates["torch_samples_per_s"]
    return rates


def example_rollout(num_steps: int, num_envs: int) -> Rollout:
    """A rollout of a run's sizes, with random numbers in the arrays that an update reads."""
    rng, rollout = np.random.default_rng(0), Rollout.empty(num_steps, num_envs, OBSERVATION_DIM, NUM_ACTIONS)
    for name in (field.name for field in fields(Minibatch)):
        getattr(rollout, name)[:] = 0.3 * rng.standard_normal(getattr(rollout, name).shape)
    rollout.log_prob[:] -= 6.0
    return rollout


class TorchPPO:
    """The same learner in PyTorch, which starts from the weights in a state of our learner."""

    def __init__(self, state: Mapping[str, np.ndarray], config: PPOConfig):
        import torch

        torch.set_num_threads(kernels.num_threads())
        self.torch, self.config, self.rate = torch, config, config.learning_rate
        self.parameters = {
            name.removeprefix("policy."): torch.nn.Parameter(torch.from_numpy(array.copy()))
            for name, array in state.items()
            if name.startswith("policy.")
        }
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=self.rate, fused=True)

    def update(self, rollout: Rollout, rng: np.random.Generator) -> float:
        """Update as PPO.update does; returns the last learning rate."""
        torch, config, size = self.torch, self.config, rollout.reward.size
        names = ("observation", "action", "mean", "log_prob", "advantage", "returns")
        arrays = [
            torch.from_numpy(getattr(rollout, name).reshape(size, *getattr(rollout, name).shape[2:])) for name in names
        ]
        old_log_std = self.parameters["log_std"].detach().clone()
        for _ in range(config.num_epochs):
            for rows in torch.from_numpy(rng.permutation(size)).reshape(config.num_minibatches, -1):
                self._step(*(array[rows] for array in arrays), old_log_std)
        return self.rate

    def _step(self, observation, action, old_mean, old_log_prob, advantage, returns, old_log_std) -> None:
        torch, config, p, linear = self.torch, self.config, self.parameters, self.torch.nn.functional.linear
        hidden = observation
        for i in range(len(HIDDEN)):
            hidden = torch.tanh(linear(hidden, p[f"backbone.{i}.weight"], p[f"backbone.{i}.bias"]))
        mean = torch.tanh(linear(hidden, p["actor_head.weight"], p["actor_head.bias"]))
        value, log_std = linear(hidden, p["critic_head.weight"], p["critic_head.bias"]).squeeze(1), p["log_std"]
        inverse_std = torch.exp(-log_std)
        log_prob = -(0.5 * ((action - mean) * inverse_std).square() + log_std).sum(dim=1) - 0.5 * NUM_ACTIONS * np.log(
            2.0 * np.pi
        )
        ratio = torch.exp(log_prob - old_log_prob)
        policy_loss = -torch.minimum(
            ratio * advantage, ratio.clamp(1.0 - config.clip, 1.0 + config.clip) * advantage
        ).mean()
        loss = (
            policy_loss
            + config.value_coefficient * (value - returns).square().mean()
            - config.entropy_coefficient * log_std.sum()
        )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.values(), config.max_gradient_norm)
        with torch.no_grad():
            kl_of_stds = (log_std - old_log_std + 0.5 * torch.exp(2.0 * (old_log_std - log_std)) - 0.5).sum()
            kl = float(kl_of_stds + 0.5 * ((old_mean - mean) * inverse_std).square().sum(dim=1).mean())
        if kl > 2.0 * config.desired_kl:
            self.rate = max(self.rate / 1.5, 1e-5)
        elif kl < 0.5 * config.desired_kl:
            self.rate = min(self.rate * 1.5, 1e-2)
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.optimizer.step()


def compare_inference() -> dict[str, float]:
    """p50 and p99 latency, in us, of one observation in each runtime, from NumPy to NumPy, 1 ms between calls.

    `LoadedPolicy` also checks, unpads and normalizes the observation; the others only run the network.
    """
    actor, normalizer = (
        ActorCritic(48, NUM_ACTIONS, HIDDEN, rng=np.random.default_rng(0)).actor(),
        ObservationNormalizer(48),
    )
    policy = rfx.LoadedPolicy(actor, normalizer=normalizer)
    layers = [(layer.weight.numpy(), layer.bias.numpy()) for layer in actor.layers]
    runtimes = {"": lambda state: policy({"state": state})}
    if importlib.util.find_spec("torch"):
        runtimes["torch_"] = torch_inference(layers)
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        runtimes["onnx_"] = onnx_inference(layers)
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    states = np.random.default_rng(0).standard_normal((CALLS_A_TURN, 1, 48), np.float32)
    for turn in range(-1, TURNS):
        for name, infer in runtimes.items():
            for state in states:
                time.sleep(SPACING_S)
                begin = time.perf_counter()
                infer(state)
                if turn >= 0:
                    times[name].append(1e6 * (time.perf_counter() - begin))
    return {
        f"inference_{name}p{q}_us": float(np.percentile(values, q)) for name, values in times.items() for q in (50, 99)
    }


def torch_inference(layers: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """The actor's network in PyTorch. layers: (weight (out, in), bias (out,))."""
    import torch

    tensors = [(torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())) for weight, bias in layers]

    @torch.inference_mode()
    def infer(state: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(state)
        for weight, bias in tensors:
            x = torch.tanh(torch.nn.functional.linear(x, weight, bias))
        return x.numpy()

    return infer


def onnx_inference(layers: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """The actor's network in ONNX Runtime. layers: (weight (out, in), bias (out,))."""
    import onnx
    import onnxruntime

    nodes, constants, last = [], [], "x"
    for i, (weight, bias) in enumerate(layers):
        constants += [onnx.numpy_helper.from_array(weight, f"w{i}"), onnx.numpy_helper.from_array(bias, f"b{i}")]
        nodes += [
            onnx.helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"y{i}"], transB=1),
            onnx.helper.make_node("Tanh", [f"y{i}"], [f"t{i}"]),
        ]
        last = f"t{i}"
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, layers[0][0].shape[1]]), (last, [1, layers[-1][0].shape[0]]))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "actor", ends[:1], ends[1:], constants),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the fastest setting for such a small network
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda state: session.run(None, {"x": state})[0]


def main() -> None:
    figures = measure_learner(lambda doing: print(doing, flush=True))
    for minibatch in ROUNDS:
        names = ("samples_per_s", "torch_samples_per_s", "times_torch")
        ours, torch, times = (figures.get(f"learner_{minibatch}_{name}") for name in names)
        beside = f", PyTorch {torch:,.0f}: {times:.2f} times" if torch else ""
        print(f"minibatch {minibatch}: {ours:,.0f} samples/s{beside}")
    for name, label in (("", "LoadedPolicy"), ("torch_", "PyTorch"), ("onnx_", "ONNX Runtime")):
        if f"inference_{name}p50_us" in figures:
            print(
                f"{label}: p50 {figures[f'inference_{name}p50_us']:.0f} us, p99 {figures[f'inference_{name}p99_us']:.0f} us"
            )


if __name__ == "__main__":
    main()
