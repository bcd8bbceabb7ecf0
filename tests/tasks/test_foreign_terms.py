"""Terms of a user's own, MODULE:FUNCTION, wherever a term is named: found, bound, mirrored, and refused in one line."""

import dataclasses
import sys

import numpy as np
import pytest
import yaml
from tiny_run import make_config

import rfx
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx.commands.cli import main
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import MLP
from rfx.robot.files import ASSETS, load_robot
from rfx.robot.mirror import Mirror
from rfx.robot.observe import observation_width, observe
from rfx.robot.state import RobotState
from rfx.settings.terms import foreign_names, search_working_directory
from train.task.config import TrainConfig
from train.task.task import find_task
from train.tasks.legged import LeggedTask

OWN = {
    "commands": {"ours": {"term": "foreign_terms:forwards", "vx": [0.4, 0.6]}},
    "resets": {"foreign_terms:crouched": {"by_rad": 0.2}},
    "randomize": True,
    "randomization": {"ours": {"term": "foreign_terms:heavy", "scale": [2.0, 2.0]}},
    "noise": {},
    "pushes": {"ours": {"term": "foreign_terms:lift", "speed_m_s": [0.1, 0.2]}},
    "terminations": {"ours": {"term": "foreign_terms:upside_down", "least": 0.2}},
    "rewards": {"foreign_terms:spin": {"weight": -1.0, "power": 1.0}},
    "terrain": {"kinds": {"ours": {"term": "foreign_terms:bowl", "depth_m": [0.05, 0.1]}}, "num_levels": 2},
}


def robot_of(*terms: str):
    config = dataclasses.replace(GO2_CONFIG, observation_terms=terms, state_dim=1)
    return dataclasses.replace(config, state_dim=observation_width(config))


def test_every_kind_of_term_can_be_a_users_own() -> None:
    robot = robot_of("joint_position", "foreign_terms:joint_speed")
    env = LeggedEnv(4, config=EnvConfig.from_dict(OWN), robot=robot, critic_terms=["foreign_terms:acceleration"])
    nominal = LeggedEnv(1, task="go2", randomize=False).simulation.mass_kg
    observation, _ = env.reset(seed=0)
    state = env.state
    assert (state.robot.velocity_command[:, 0] >= 0.4).all() and (state.robot.velocity_command[:, 1:] == 0).all()
    np.testing.assert_allclose(observation["state"][:, :12], 0.2, atol=1e-6)  # the reset term's
    np.testing.assert_allclose(env.simulation.mass_kg, 2.0 * nominal[0])
    heights = env.simulation.ground.heights
    assert heights.min() == pytest.approx(-0.1, abs=1e-3) and heights.max() == 0.0
    observation, reward, terminated, _, _ = env.step(np.zeros((4, 12), np.float32))
    np.testing.assert_allclose(reward, -env.step_s * np.abs(state.robot.base_angular_velocity_b[:, 2]), atol=1e-6)
    np.testing.assert_allclose(observation["state"][:, 12:24], np.abs(state.robot.joint_velocity), atol=1e-6)
    np.testing.assert_array_equal(observation["critic"], state.joint_acceleration)
    assert not terminated.any()
    state.robot.projected_gravity_b[:, 2] = 0.3
    assert env._terminations[0](state).all()


@pytest.mark.parametrize(
    ("section", "entry", "said"),
    [
        ("rewards", {"a": {"term": "foreign_terms:spn", "weight": 1.0}}, "'spin'"),
        ("rewards", {"a": {"term": "foreign_term:spin", "weight": 1.0}}, "'foreign_terms'"),
        ("rewards", {"a": {"term": "foreign_terms.deeper:spin", "weight": 1.0}}, "foreign_terms.deeper"),
        ("rewards", {"a": {"term": "foreign_terms:spin", "weight": 1.0, "powr": 1.0}}, "'power'"),
        ("rewards", {"a": {"term": "foreign_terms:not_a_function", "weight": 1.0}}, "function"),
        ("rewards", {"a": {"term": "foreign_terms:no_robot", "weight": 1.0}}, "0 arguments"),
        ("rewards", {"a": {"term": "foreign_terms:column", "weight": 1.0}}, r"\(2, 1\)"),
        ("rewards", {"a": {"term": "os:system", "weight": 1.0}}, "Python itself"),
        ("terminations", {"a": {"term": "foreign_terms:upside_down", "last": 1.0}}, "'least'"),
        ("commands", {"a": {"term": "foreign_terms:forwards"}}, "vx"),
    ],
)
def test_a_wrong_one_fails_at_construction_in_one_line(section, entry, said) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        LeggedEnv(1, config=dataclasses.replace(EnvConfig.load("go2"), **{section: entry}), robot=GO2_CONFIG)
    assert "\n" not in str(raised.value)


def test_what_a_module_raises_when_it_is_imported_is_told_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text, said in (
        ("broken_terms", "def f(:\n", "SyntaxError"),
        ("raising_terms", "1 / 0\n", "ZeroDivisionError"),
        ("wanting_terms", "import not_installed_at_all\n", "not_installed_at_all"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(ValueError, match=said) as raised:
            find_task(f"{name}:Task")
        assert "\n" not in str(raised.value) and name in str(raised.value)


def test_a_robots_file_names_terms_and_their_widths_add_up(tmp_path) -> None:
    values = yaml.safe_load((ASSETS / "go2" / "robot.yaml").read_text())
    values |= {"observation_terms": ["joint_position", "foreign_terms:tilt"], "mjcf": str(ASSETS / "go2" / "go2.xml")}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values))
    robot = load_robot(tmp_path)
    assert robot.state_dim == 14
    state = RobotState.zeros(robot, 1)
    state.projected_gravity_b[0] = [0.1, 0.2, -0.9]
    np.testing.assert_allclose(observe(state)[0, 12:14], [0.2, 0.1])
    for name, said in (
        ("foreign_terms:tlt", "'tilt'"),
        ("foreign_terms:flat", r"\(2,\)"),
        ("foreign_terms:needs_more", "gain"),
    ):
        (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values | {"observation_terms": [name]}))
        with pytest.raises(ValueError, match=said):
            load_robot(tmp_path)


def test_a_term_says_its_mirror_image_and_one_that_does_not_is_refused() -> None:
    mirror = Mirror(robot_of("foreign_terms:joint_speed", "foreign_terms:tilt", "foreign_terms:foot_number"))
    state = np.arange(18, dtype=np.float32)[None]
    hips = np.array([0, 3, 6, 9])
    legs = np.arange(12).reshape(4, 3)[[1, 0, 3, 2]].reshape(-1)
    expected = np.concatenate([legs, [-12, 13], 14 + np.array([1, 0, 3, 2])])
    expected[hips] *= -1
    np.testing.assert_array_equal(mirror.observation(state)[0], expected)
    with pytest.raises(ValueError, match="foreign_terms:unmirrored"):
        Mirror(robot_of("foreign_terms:unmirrored"))
    with pytest.raises(ValueError, match="12"):
        Mirror(robot_of("foreign_terms:too_few_signs"))


def test_a_task_of_a_users_own_is_found_and_a_wrong_one_is_refused() -> None:
    from foreign_task import PointTask

    config = TrainConfig.from_dict(
        {"task": "foreign_task:PointTask", "env": {"num_envs": 8}, "trainer": {"rollout_steps": 4}}
    )
    assert find_task(config.task) is PointTask and config.env.num_envs == 8
    for name, said in (("foreign_task:PointTsk", "'PointTask'"), ("foreign_terms:spin", "class"), ("legd", "'legged'")):
        with pytest.raises(ValueError, match=said):
            find_task(name)


def test_critic_terms_and_the_config_are_checked_before_anything_is_made() -> None:
    config = make_config(
        **{"policy.critic": "privileged", "policy.critic_terms": ["observation", "foreign_terms:acceleration"]}
    )
    assert LeggedTask(config).critic_terms[1] == "foreign_terms:acceleration"
    with pytest.raises(ValueError, match="'acceleration'"):
        make_config(**{"policy.critic_terms": ["foreign_terms:acelleration"]})
    with pytest.raises(ValueError, match="without a dot"):  # a run writes its keys with dots between groups
        make_config(**{"env.rewards": {"package.rewards:spin": {"weight": 1.0}}})


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A policy folder whose observation needs elsewhere_terms:speed, and the folder that has the module."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "elsewhere_terms.py").write_text("raise RuntimeError('imported')\n")
    robot = dataclasses.replace(GO2_CONFIG, observation_terms=("elsewhere_terms:speed",), state_dim=12)
    return MLP(12, 12, hidden=[8]).save(tmp_path / "policy", robot_config=robot), source


def test_a_policy_says_what_its_observation_needs_and_loading_imports_nothing(saved, monkeypatch, capsys) -> None:
    path, source = saved
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert rfx.inspect_policy(path).robot_config.observation_terms == ("elsewhere_terms:speed",)
    assert main(["inspect", str(path)]) == 0 and "needs on Python's path: elsewhere_terms" in capsys.readouterr().out
    assert main(["deploy", str(path)]) == 1 and "elsewhere_terms:speed" in capsys.readouterr().err
    with pytest.raises(ValueError, match="elsewhere_terms:speed"):
        rfx.load_policy(path)
    monkeypatch.syspath_prepend(source)
    assert rfx.load_policy(path).robot_config.state_dim == 12
    assert "elsewhere_terms" not in sys.modules


def test_no_policy_folder_on_the_path_is_loaded_from(saved, monkeypatch) -> None:
    """From there its own code would run: loading promises that none does."""
    path, source = saved
    (source / "elsewhere_terms.py").rename(path / "elsewhere_terms.py")
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    with pytest.raises(ValueError, match="own folder"):
        rfx.load_policy(".")


def test_a_folder_of_the_working_directory_shadows_nothing(tmp_path, monkeypatch) -> None:
    """It is searched last; where it is gone, commands that need none of it still run."""
    monkeypatch.setattr(sys, "path", ["before"])
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    search_working_directory()
    search_working_directory()
    assert sys.path == ["before", str(tmp_path / "gone")]
    (tmp_path / "gone").rmdir()
    search_working_directory()


def test_names_of_a_users_own_are_told_from_other_texts() -> None:
    values = {
        "env": {"id": "my_envs:Point-v0", "rewards": {"a.b:c": {"weight": 1.0}}, "kinds": [["my_kinds:bowl"]]},
        "address": "10.0.0.1:6379",
        "policy": "hf://owner/name",
        "path": "C:\\x",
        "time": "12:30",
        "empty": ":x",
    }
    assert [*foreign_names(values)] == ["my_envs:Point-v0", "a.b:c", "my_kinds:bowl"]
