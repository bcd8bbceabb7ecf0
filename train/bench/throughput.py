"""Measures the speed of physics, environment, collection and the whole loop, on the states of a walking policy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from mujoco.batch import Batch

import rfx
from envs.legged.env import LeggedEnv
from rfx.nn import MLP
from rfx.random.streams import Streams
from rfx.robot.state import Array
from train.ppo.collect import collect
from train.runs import trainer as trainer_module
from train.runs.trainer import Trainer

WALK_S = 4.0  # walking time before the measurement, so that the robots are in mid-stride
STD = 0.25  # standard deviation of exploration if the policy folder gives none; typical at the end of training


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The start of num_envs robots, and their actions over the next T control steps."""

    start: dict[str, Any]  # from LeggedEnv.state_dict
    observation: dict[str, Array]  # at the start
    physics: Array  # (N, size), MuJoCo's full state at the start
    actions: Array  # (T, N, num_joints)
    controls: Array  # (T, N, nu), the controls that result from the actions


def put_policy(trainer: Trainer, policy: rfx.LoadedPolicy) -> None:
    """Give the trainer the weights and statistics of a loaded MLP policy; the trainer's critic stays unchanged.

    Raises ValueError for a policy of another kind or size.
    """
    actor = policy.policy
    fits = isinstance(actor, MLP) and (actor.hidden, actor.history, actor.activation) == (
        trainer.policy.hidden,
        trainer.policy.history,
        trainer.policy.activation,
    )
    if not fits or policy.normalizer is None:
        raise ValueError(
            f"got a {policy.policy_type} that reads {policy.history} observations, for a network of "
            f"{trainer.policy.hidden} {trainer.policy.activation} that reads {trainer.policy.history}; "
            "expected an MLP of that size and activation, with normalizer"
        )
    state = trainer.learner.state_dict()
    names = [*(f"policy.backbone.{i}" for i in range(len(actor.layers) - 1)), "policy.actor_head"]
    for name, layer in zip(names, actor.layers):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight.numpy(), layer.bias.numpy()
    state["policy.log_std"] = np.full_like(state["policy.log_std"], np.log(STD))
    trainer.learner.load_state_dict(state)
    trainer.normalizer = policy.normalizer


def record(env: LeggedEnv, act: Callable[[Array], Array], num_steps: int, seed: int = 0) -> Recording:
    """Walk for WALK_S, then record num_steps control steps of the deterministic policy act."""
    ctrl = env.simulation.batch.bind("ctrl")
    observation = env.reset(seed=seed)[0]
    for _ in range(round(WALK_S / env.step_s)):
        observation = env.step(act(observation["state"]))[0]
    start, first, physics = env.state_dict(), observation, env.simulation.batch.state.copy()
    actions, controls = [], []
    for _ in range(num_steps):
        actions.append(act(observation["state"]).copy())
        observation = env.step(actions[-1])[0]
        controls.append(ctrl.copy())
    return Recording(
        start=start, observation=first, physics=physics, actions=np.array(actions), controls=np.array(controls)
    )


def measure(
    trainer: Trainer,
    recording: Recording,
    nominal: LeggedEnv,
    nominal_recording: Recording,
    rounds: int,
    tell: Callable[[str], None],
) -> dict[str, float]:
    """Speeds and shares by flat name: medians over rounds, each of which measures everything once, in turn.

    Raw physics steps the same robots, each with its own masses and gains if the task randomizes them. nominal is the
    environment without randomization, noise, latency and pushes; the difference shows what these cost.
    """
    env, batch = trainer.env, raw_batch(trainer, recording)
    work = {
        "raw": lambda: step_batch(batch, recording, env.simulation.num_substeps),
        "env": lambda: step_env(env, recording),
        "nominal_env": lambda: step_env(nominal, nominal_recording),
        "collect": lambda: collect_once(trainer, recording),
        "loop": trainer.iterate,
    }
    steps = {name: len(recording.actions) * env.num_envs for name in ("raw", "env", "nominal_env")}
    steps |= {"collect": trainer.rollout.reward.size, "loop": trainer.rollout.reward.size}
    trainer.iterate()  # compiles
    rates: dict[str, list[float]] = {name: [] for name in work}
    updates = []
    for index in range(rounds):
        tell(f"speed: round {index + 1} of {rounds}")
        for name, function in work.items():
            batch.state[...] = recording.physics
            env.load_state_dict(recording.start)
            nominal.load_state_dict(nominal_recording.start)
            with stopwatch(trainer.learner, "update") as spent:
                begin = time.perf_counter()
                function()
                rates[name].append(steps[name] / (time.perf_counter() - begin))
            if name == "loop":
                updates.append(steps[name] * trainer.config.ppo.num_epochs / spent[0])
    figures = {f"{name}_steps_per_s": statistics.median(values) for name, values in rates.items()}
    figures["update_samples_per_s"] = statistics.median(updates)
    for name in ("env", "collect", "loop"):
        figures[f"{name}_share_of_raw"] = statistics.median(rate / raw for rate, raw in zip(rates[name], rates["raw"]))
    figures["env_share_of_nominal_env"] = statistics.median(
        rate / other for rate, other in zip(rates["env"], rates["nominal_env"])
    )
    return figures


def raw_batch(trainer: Trainer, recording: Recording) -> Batch:
    """A batch for the physics alone, with the recorded robots and the model fields of each."""
    env = trainer.env
    batch = Batch(env.simulation.model, env.num_envs, trainer.config.threads)
    for name, values in recording.start.items():
        if name.startswith("model."):
            batch.expand(name.removeprefix("model."))[...] = values
    return batch


def step_batch(batch: Batch, recording: Recording, num_substeps: int) -> None:
    """Step the raw physics with the recorded controls."""
    ctrl = batch.bind("ctrl")
    for control in recording.controls:
        ctrl[...] = control
        batch.step(nstep=num_substeps)


def step_env(env: LeggedEnv, recording: Recording) -> None:
    """Step an environment with the recorded actions."""
    for action in recording.actions:
        env.step(action)


def collect_once(trainer: Trainer, recording: Recording) -> None:
    """Fill the trainer's rollout, starting from the recorded state."""
    collect(
        trainer.env,
        trainer.learner,
        trainer.normalizer,
        trainer.rollout,
        recording.observation,
        Streams(trainer.env.num_envs, 0),
        history=trainer.history,
        critic_normalizer=trainer.critic_normalizer,
    )


def where_time_goes(trainer: Trainer, recording: Recording, iterations: int = 3) -> dict[str, float]:
    """Shares of the whole loop's time, by flat name; they sum to 1."""
    seconds = seconds_of_parts(trainer, recording.start, iterations)
    return {f"time_share_{name}": value / sum(seconds.values()) for name, value in seconds.items()}


def seconds_of_parts(trainer: Trainer, start: Mapping[str, Any], iterations: int = 3) -> dict[str, float]:
    """Mean seconds of each part of an iteration, from a LeggedEnv's state; they sum to the whole iteration."""
    env, learner = trainer.env, trainer.learner
    simulation, real_batch = env.simulation, env.simulation.batch
    simulation.batch = _Forwarding(real_batch)
    env.load_state_dict(start)
    with (
        stopwatch(simulation.batch, "step") as steps,
        stopwatch(simulation.batch, "rollout") as rollouts,
        stopwatch(env, "step") as environment,
        stopwatch(learner, "act") as inference,
        stopwatch(learner, "update") as update,
        stopwatch(trainer_module, "gae") as gae,
        stopwatch(trainer.collector, "collect") as collection,
    ):
        begin = time.perf_counter()
        for _ in range(iterations):
            trainer.iterate()
        whole = time.perf_counter() - begin
    simulation.batch = real_batch
    physics = steps[0] + rollouts[0]  # actions that take effect late go through rollouts
    parts = {
        "physics": physics,
        "environment": environment[0] - physics,
        "inference": inference[0],
        "collection": collection[0] - environment[0] - inference[0],
        "gae": gae[0],
        "update": update[0],
        "rest": whole - collection[0] - gae[0] - update[0],
    }
    return {name: seconds / iterations for name, seconds in parts.items()}


@contextmanager
def stopwatch(owner: Any, name: str) -> Iterator[list[float]]:
    """Measures the seconds spent in the owner's function called name, while inside, in a list of one number."""
    function, spent = getattr(owner, name), [0.0]
    own = name in vars(owner)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - begin

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        if own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)


class _Forwarding:
    """Wraps an object whose attributes cannot be set, so that its functions can be timed."""

    def __init__(self, target: Any):
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
