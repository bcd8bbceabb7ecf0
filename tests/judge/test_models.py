"""`suite=models`: every figure of configs/models/ is in the model that is played, none is played twice, and others' Go2
is what they say.
"""

import io
import json

import mujoco
import numpy as np
import pytest
from rich.console import Console

from envs.legged.config import EnvConfig
from rfx import GO2_CONFIG, ObservationNormalizer
from rfx.drivers.mjcf import load_model
from rfx.nn import ActorCritic
from rfx.robot.files import load_robot
from train.commands.evaluate import run
from train.judge.evaluate_config import EvaluateConfig
from train.judge.models import OWN, ModelChange, Models, changed_model, published
from train.judge.play import evaluation_env

TASK = EnvConfig.load("go2", timestep_s=0.005)


def model_with(tmp_path, robot=GO2_CONFIG, **change) -> mujoco.MjModel:
    path = tmp_path / "model.xml"
    path.write_text(changed_model(robot, ModelChange(**change)).to_xml())
    return load_model(robot, path)


def test_without_a_change_the_model_is_its_own(tmp_path):
    own, same = load_model(GO2_CONFIG), model_with(tmp_path)
    for field in (
        "body_mass",
        "body_inertia",
        "dof_damping",
        "dof_armature",
        "geom_size",
        "geom_friction",
        "geom_solimp",
        "site_size",
        "key_qpos",
    ):
        np.testing.assert_allclose(getattr(same, field), getattr(own, field), rtol=1e-6, atol=1e-9, err_msg=field)


def test_what_others_publish_of_the_robot_is_what_is_played(tmp_path):
    model = model_with(tmp_path, **{key: value for key, value in vars(published("go2")["MuJoCo Menagerie"]).items()})
    joints = slice(6, 18)
    assert (
        (model.dof_damping[joints] == 2.0).all()
        and (model.dof_armature[joints] == 0.01).all()
        and not model.dof_damping[:6].any()
    )
    assert model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC and model.opt.impratio == 100.0
    assert model.geom("floor").friction[0] == 0.8 and model.geom("floor").solimp[:3].tolist() == model.geom(
        "FL_foot"
    ).solimp[:3].tolist() == [0.015, 1, 0.031]


def test_masses_feet_and_friction_change_as_they_say(tmp_path):
    own = load_model(GO2_CONFIG)
    heavy = model_with(tmp_path, mass_scale=1.1)
    np.testing.assert_allclose(heavy.body_mass, 1.1 * own.body_mass, rtol=1e-5)  # six digits in the file
    np.testing.assert_allclose(heavy.body_inertia, 1.1 * own.body_inertia, rtol=1e-4)
    anymal = load_robot("anymal_c")
    np.testing.assert_allclose(
        model_with(tmp_path, anymal, mass_scale=0.9).body_mass, 0.9 * load_model(anymal).body_mass, rtol=1e-5
    )
    small = model_with(tmp_path, foot_radius_scale=0.5)
    assert small.geom("FR_foot").size[0] == 0.011 and small.key("home").qpos[2] == pytest.approx(
        own.key("home").qpos[2] - 0.011, abs=1e-6
    )
    assert model_with(tmp_path, floor_friction=0.3, friction_nm=0.7).dof_frictionloss[6:18].tolist() == [0.7] * 12


@pytest.mark.parametrize("shape", ["box", "cylinder"])
def test_a_foot_of_another_shape_still_feels_the_ground(shape, tmp_path):
    (tmp_path / "model.xml").write_text(changed_model(GO2_CONFIG, ModelChange(foot_shape=shape)).to_xml())
    env = evaluation_env(TASK, GO2_CONFIG, num_envs=2, threads=1, mjcf=str(tmp_path / "model.xml"))
    env.reset(seed=0)
    for _ in range(50):
        assert not env.step(np.zeros((2, 12), np.float32))[2].any()
    assert env.state.foot_contact.all() and env.simulation.model.geom("FR_foot").type == getattr(
        mujoco.mjtGeom, f"mjGEOM_{shape.upper()}"
    )


def test_feet_that_are_no_spheres_keep_their_shape():
    assert changed_model(load_robot("g1"), ModelChange(foot_shape="box")) is None
    assert changed_model(load_robot("g1"), ModelChange(damping_nm_s=1.0)) is not None


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="got cone 'round': it must be pyramidal or elliptic"):
        ModelChange(cone="round")


def test_all_models_are_played_at_each_step_and_none_is_a_copy(tmp_path):
    told = []
    results = Models(
        lambda o: np.zeros((len(o), 12), np.float32),
        TASK,
        GO2_CONFIG,
        num_envs=16,
        duration_s=0.02,
        seed=0,
        threads=1,
        tell=told.append,
        timesteps_ms=(5.0, 10.0, 7.0),
    ).run()  # 7 ms does not divide a control step
    assert (
        list(results)[0] == OWN
        and "damping 0.1" not in results
        and results.keys() - {OWN} == published("go2").keys() - {"damping 0.1"}
    )
    assert len(told) == 2 * len(results) > 30 and all(list(of_model) == [5.0, 10.0] for of_model in results.values())
    assert results[OWN][10.0].timestep_s == 0.01 and results[OWN][10.0].num_envs == 1


def test_the_command_prints_a_table_and_writes_every_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("train.judge.models.published", lambda robot: {"damping 2": ModelChange(damping_nm_s=2.0)})
    normalizer = ObservationNormalizer(48)
    normalizer.update(np.random.default_rng(0).normal(size=(100, 48)).astype(np.float32))
    actor = ActorCritic(48, 12, [16], rng=np.random.default_rng(1)).actor()
    actor.save(tmp_path / "policy", robot_config=GO2_CONFIG, normalizer=normalizer, training_info={})
    shown = io.StringIO()
    run(
        EvaluateConfig(policy=str(tmp_path / "policy"), suite="models", num_envs=2, duration_s=1.1, threads=1),
        Console(file=shown, width=120),
    )
    written = json.loads((tmp_path / "evaluation_2x1.1s_seed_0_suite_models.json").read_text())["models"]
    assert written.keys() == {OWN, "damping 2"} and written["damping 2"].keys() == {"1", "2", "5", "10"}
    assert (
        written["damping 2"]["1"]["timestep_s"] == 0.001
        and "damping 2" in shown.getvalue()
        and "10 ms" in shown.getvalue()
    )
