"""The training configuration: what the YAML files compose to, and what is said about values that make no sense."""

import copy
import dataclasses
import re
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from envs.legged import privileged
from envs.settings.configs import CONFIGS, compose, merged, options
from rfx.settings.reader import read
from rfx.settings.terms import available
from train.commands.train import OF_SWEEPS
from train.ppo.config import PolicyConfig
from train.task.config import TrainConfig


def composed() -> dict[str, Any]:
    """What `python -m train +robot=go2` composes: train.yaml, then what the robot's file composes, key by key."""
    values = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    for key in ("defaults", "hydra", *OF_SWEEPS):
        values.pop(key, None)
    return merged(values, compose("robot", "go2"))


def changed(key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(composed())
    *groups, last = key.split(".")
    group = values
    for name in groups:
        group = group[name]
    group[last] = value
    return values


def test_the_default_run_is_the_documented_one() -> None:
    config = TrainConfig.from_dict(composed())
    assert (config.task, config.robot, config.title, config.seed, config.threads) == ("legged", "go2", "go2", 0, 0)
    assert config.policy == PolicyConfig(
        hidden=(128, 128),
        initial_std=config.policy.initial_std,
        symmetric=True,
        critic_terms=tuple(available(privileged)),
    )
    assert config.env.num_envs * config.trainer.rollout_steps % config.ppo.num_minibatches == 0


def test_every_field_stands_in_the_yaml_so_that_it_can_be_overridden_without_a_plus() -> None:
    values, config = composed(), TrainConfig.from_dict(composed())

    def check(given: dict[str, Any], instance: Any, path: str) -> None:
        missing = [f"{path}{f.name}" for f in dataclasses.fields(instance) if f.name not in given]
        assert not missing
        for field in dataclasses.fields(instance):
            if dataclasses.is_dataclass(getattr(instance, field.name)):
                check(given[field.name], getattr(instance, field.name), f"{path}{field.name}.")

    check(values, config, "")


@pytest.mark.parametrize("robot", options("robot"))
def test_files_are_composed_as_hydra_composes_them(robot: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        theirs = OmegaConf.to_container(hydra_compose(config_name="train", overrides=[f"+robot={robot}"]))
    ours = compose("robot", robot)
    assert {key: theirs[key] for key in ours} == ours
    assert list(theirs["env"]["rewards"]) == list(ours["env"]["rewards"])  # summed in this order


def test_a_robot_is_a_robot_and_a_run_has_a_name() -> None:
    rough = TrainConfig.from_dict(compose("robot", "go2_rough"))
    assert (rough.robot, rough.title, rough.env.terrain.num_levels) == ("go2", "go2_rough", 10)
    assert dataclasses.replace(rough, name=None).title == "go2"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("env.num_envs", "many", "env.num_envs is 'many': it must be a whole number"),
        ("env.num_envs", 1.5, "env.num_envs is 1.5"),
        ("env.num_envs", True, "env.num_envs is True"),
        ("env.num_envs", 0, "env.num_envs is 0: it must be a whole number of at least 1"),
        ("env.num_env", 3, "unknown key 'env.num_env': did you mean 'num_envs'?"),
        ("env.timestep_s", "fast", "env.timestep_s is 'fast': it must be a number"),
        (
            "env.command_interval_s",
            [1.0, 2.0, 3.0],
            "env.command_interval_s is [1.0, 2.0, 3.0]: it must be a list of 2 numbers",
        ),
        ("env.mjcf", 3, "env.mjcf is 3: it must be text"),
        ("env.rewards", None, "env.rewards is None: it must be a group of keys"),
        ("env.rewards.tilt.weight", "heavy", "env.rewards.tilt.weight is 'heavy': it must be a number"),
        (
            "env.rewards.linear_velocity.variance",
            [1],
            "env.rewards.linear_velocity.variance is [1]: it must be a number",
        ),
        ("env.rewards.tlit", {"weight": 1.0}, "unknown term 'tlit' among rewards: did you mean 'tilt'?"),
        ("env.commands.uniform_velocity.vx", 3, "env.commands.uniform_velocity.vx is 3: it must be a list of numbers"),
        ("policy.hidden", 256, "policy.hidden is 256: it must be a list of whole numbers"),
        ("policy.hidden", [], "policy.hidden is []: it must be a list of layer widths of at least 1"),
        ("policy.hidden", [256, 0], "policy.hidden is [256, 0]"),
        ("policy.initial_std", 0.0, "policy.initial_std is 0.0: it must be positive"),
        ("ppo.num_minibatches", 7, "ppo.num_minibatches is 7: it does not divide"),
        ("ppo.gamma", 1.5, "gamma 1.5"),
        ("trainer.total_steps", 0, "trainer.total_steps is 0: it must be positive"),
        ("seed", -1, "seed is -1: it must be 0 or more"),
        ("threads", -2, "threads is -2"),
        (
            "env.rewards.yaw_rate_precision.term",
            "yaw_rat",
            "unknown term 'yaw_rat' among rewards: did you mean 'yaw_rate'?",
        ),
        ("env.rewards.yaw_rate_precision.term", 3, "unknown term 3 among rewards: possible are"),
        ("env.randomization.kp.term", "kpp", "unknown term 'kpp' among randomization: did you mean 'kp'?"),
        (
            "policy.critic_terms",
            ["base_hight"],
            "unknown term 'base_hight' among privileged: did you mean 'base_height'?",
        ),
        ("task", "leged", "unknown task 'leged': did you mean 'legged'?"),
        ("robot", None, "no robot given: choose one with +robot=NAME, possible are a1, anymal_c"),
        ("learning_rate", 1.0, "unknown key 'learning_rate'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_possible(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        TrainConfig.from_dict(changed(key, value))
    assert "\n" not in str(error.value)


def test_minibatches_that_do_not_divide_the_rollout_name_the_next_that_do() -> None:
    with pytest.raises(ValueError, match="6 x trainer.rollout_steps 5 = 30 samples; the next that does is 6"):
        values = changed("env.num_envs", 6)
        values["trainer"]["rollout_steps"], values["ppo"]["num_minibatches"] = 5, 8
        TrainConfig.from_dict(values)


def test_numbers_are_taken_as_people_write_them() -> None:
    config = TrainConfig.from_dict(changed("trainer.total_steps", 3e6))
    assert config.trainer.total_steps == 3_000_000 and isinstance(config.trainer.total_steps, int)
    config = TrainConfig.from_dict(changed("ppo.learning_rate", 1))
    assert isinstance(config.ppo.learning_rate, float)
    assert TrainConfig.from_dict(changed("ppo.desired_kl", None)).ppo.desired_kl is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    count: int = 1
    rate: float = 1.0
    name: str | None = None
    flag: bool = False
    widths: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["count", "rate", "name", "flag", "widths", "pair", "other"]), VALUES))
def test_any_value_is_either_of_the_type_asked_for_or_refused_by_name(values: dict[str, Any]) -> None:
    try:
        sample = read(Sample, values, "group")
    except ValueError as error:
        assert any(f"group.{key}" in str(error) for key in values)
        return
    assert type(sample.count) is int and type(sample.rate) is float and type(sample.flag) is bool
    assert sample.name is None or type(sample.name) is str
    assert all(type(width) is int for width in sample.widths)
    assert len(sample.pair) == 2 and all(type(value) is float for value in sample.pair)
