"""Every registered term: shape, dtype, finite, changes nothing, rows independent. And the rewards' values by hand."""

import copy
import dataclasses

import numpy as np
import pytest

from envs.legged import commands, privileged, resets, rewards, terminations
from envs.legged.state import SimState
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.robot import observation_terms
from rfx.robot.observe import observe
from rfx.robot.state import RobotState
from rfx.settings.terms import available

TERMS = [
    (module, name) for module in (rewards, terminations, observation_terms, privileged) for name in available(module)
]


def arrays_of(state):
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, np.ndarray):
            yield field.name, value
        elif isinstance(value, RobotState):
            yield from arrays_of(value)


def random_state(num_envs: int, seed: int) -> SimState:
    state, rng = SimState.zeros(GO2_CONFIG, num_envs), np.random.default_rng(seed)
    for _, array in arrays_of(state):
        array[...] = rng.random(array.shape) < 0.5 if array.dtype == bool else rng.normal(size=array.shape) * 3
    return state


@pytest.mark.parametrize(("module", "name"), TERMS, ids=[f"{m.__name__}.{n}" for m, n in TERMS])
def test_every_term_is_a_pure_function_of_each_row(module, name):
    term = available(module)[name]
    state = random_state(6, 0)
    given = state.robot if module is observation_terms else state
    before = copy.deepcopy(dict(arrays_of(state)))
    values = term(given).copy()
    for key, array in arrays_of(state):
        np.testing.assert_array_equal(array, before[key], err_msg=f"{name} changed {key}")
    assert len(values) == 6 and values.ndim == (2 if module in (observation_terms, privileged) else 1)
    assert values.dtype == (bool if module is terminations else np.float32)
    assert np.isfinite(values).all()

    other = random_state(6, 1)
    for (_, mine), (_, theirs) in zip(arrays_of(state), arrays_of(other)):
        mine[1:] = theirs[1:]  # all rows but the first are replaced
    np.testing.assert_array_equal(term(given)[0], values[0])


def standing() -> SimState:
    state = SimState.zeros(GO2_CONFIG, 1)
    state.foot_contact[...] = True
    state.base_height[...] = 0.3
    return state


def test_reward_values_by_hand():
    state = standing()
    state.base_linear_velocity_b[0] = [0.5, 0.3, -0.2]
    state.robot.velocity_command[0] = [0.2, -0.1, 0.4]
    state.robot.base_angular_velocity_b[0] = [0.1, -0.3, 0.9]
    assert rewards.linear_velocity(state, variance=0.25)[0] == pytest.approx(
        np.exp(-(0.3**2 + 0.4**2) / 0.25), rel=1e-5
    )
    assert rewards.yaw_rate(state, variance=0.5)[0] == pytest.approx(np.exp(-(0.5**2) / 0.5), rel=1e-5)
    state.mean_velocity_b[0] = [0.2, 0.1, 0.6]
    assert rewards.yaw_sway(state)[0] == pytest.approx(0.09, rel=1e-5)
    assert rewards.vertical_velocity(state)[0] == pytest.approx(0.04, rel=1e-5)
    assert rewards.roll_pitch_rate(state)[0] == pytest.approx(0.10, rel=1e-5)
    state.robot.projected_gravity_b[0] = [0.6, 0.0, -0.8]
    assert rewards.tilt(state)[0] == pytest.approx(0.36, rel=1e-5)
    state.base_height[0] = 0.25
    assert rewards.base_height(state, target_m=0.3)[0] == pytest.approx(0.0025, rel=1e-4)
    state.robot.joint_position[0, 4] += 0.5
    assert rewards.pose(state)[0] == pytest.approx(0.25, rel=1e-5)
    state.robot.last_action[0, 2], state.previous_action[0, 2] = 0.7, 0.4
    assert rewards.action_rate(state)[0] == pytest.approx(0.09, rel=1e-5)
    state.joint_torque[0, :2] = [3.0, -4.0]
    assert rewards.joint_torque(state)[0] == pytest.approx(25.0)


def test_gait_rewards_by_hand():
    state = standing()
    state.foot_swing[0] = [True, False, False, True]
    assert rewards.gait_contact(state)[0] == 0.5  # two feet stand that should swing
    state.foot_contact[0] = [False, True, True, True]
    assert rewards.gait_contact(state)[0] == 0.75
    state.foot_height[0] = [0.1, 0.02, 0.02, 0.0]
    # mean over four feet: one at its target height, one 0.1 m below it
    assert rewards.swing_height(state, target_m=0.1, variance=0.01)[0] == pytest.approx(
        (1.0 + np.exp(-1.0)) / 4, rel=1e-5
    )
    state.foot_velocity_w[0, :, 0] = [9.0, 0.3, 0.0, 0.0]
    state.foot_velocity_w[0, :, 1] = [9.0, 0.4, 0.0, 0.0]
    assert rewards.foot_slip(state)[0] == pytest.approx(0.25, rel=1e-5)  # the foot in the air does not slip


def test_rewards_that_spare_the_hardware_by_hand():
    state = standing()
    state.robot.joint_velocity[0, :3] = [1.0, -2.0, 3.0]
    assert rewards.joint_velocity(state)[0] == pytest.approx(14.0)
    state.joint_acceleration[0, 5:7] = [30.0, -40.0]
    assert rewards.joint_acceleration(state)[0] == pytest.approx(2500.0)
    # a'' = 0.1, a' = 0.4, a = 0.2: the change went from 0.3 to -0.2
    state.earlier_action[0, 3], state.previous_action[0, 3], state.robot.last_action[0, 3] = 0.1, 0.4, 0.2
    assert rewards.action_acceleration(state)[0] == pytest.approx(0.25, rel=1e-5)
    # FR hip +-1.0472: 0.9 of it is 0.94248. FR calf -2.7227 to -0.83776: middle -1.78023, 0.9 of the half range of
    # 0.94247 is 0.848223.
    assert rewards.joint_limits(state, share=0.9)[0] == 0.0
    state.robot.joint_position[0, 0], state.robot.joint_position[0, 2] = -1.0, -2.7
    assert rewards.joint_limits(state, share=0.9)[0] == pytest.approx(
        (1.0 - 0.94248) + (2.7 - 1.78023 - 0.848223), rel=1e-4
    )
    assert rewards.joint_limits(state, share=1.0)[0] == 0.0
    state.foot_velocity_w[0, :, 2] = [-0.5, -0.3, -7.0, 0.0]
    state.foot_landed[0] = [True, True, False, False]
    assert rewards.foot_impact(state)[0] == pytest.approx(0.34, rel=1e-5)


def test_standing_on_a_zero_command_by_hand():
    state = standing()
    state.robot.joint_position[0, :2] += np.float32([0.3, -0.4])
    assert rewards.stand_still(state)[0] == pytest.approx(0.25, rel=1e-5)
    state.robot.velocity_command[0, 2] = 0.1
    assert rewards.stand_still(state)[0] == 0.0


def test_terminations_by_hand():
    state = standing()
    assert not any(available(terminations)[name](state)[0] for name in available(terminations))
    state.robot.projected_gravity_b[0] = [np.sin(np.radians(61)), 0.0, -np.cos(np.radians(61))]
    assert terminations.tipped_over(state)[0]
    state.base_height[0] = 0.149
    assert terminations.base_low(state)[0]


def test_observation_order_is_the_documented_one():
    state = RobotState.zeros(GO2_CONFIG, 1)
    state.joint_position[0] += np.arange(12)
    state.joint_velocity[0] = 100 + np.arange(12)
    state.base_angular_velocity_b[0] = [200, 201, 202]
    state.projected_gravity_b[0] = [300, 301, 302]
    state.velocity_command[0] = [400, 401, 402]
    state.last_action[0] = 500 + np.arange(12)
    state.gait_phase[0] = 0.25 * np.pi
    expected = np.concatenate(
        (
            np.arange(12),
            100 + np.arange(12),
            [200, 201, 202],
            [300, 301, 302],
            [400, 401, 402],
            500 + np.arange(12),
            [np.sqrt(0.5), np.sqrt(0.5), 1],
            np.zeros(16),
        )
    )
    np.testing.assert_allclose(observe(state)[0], expected, atol=1e-5)


def test_terms_that_do_not_fill_state_dim_are_refused():
    state = RobotState.zeros(dataclasses.replace(GO2_CONFIG, observation_terms=("joint_position",)), 1)
    with pytest.raises(ValueError, match="48"):
        observe(state)


def test_uniform_commands_stay_in_range_and_some_are_zero():
    command = commands.uniform_velocity(
        np.random.default_rng(0), 20_000, vx=[-0.6, 1.0], vy=[-0.4, 0.4], yaw_rate=[-0.8, 0.8], zero_share=0.1
    )
    assert command.min(axis=0) == pytest.approx([-0.6, -0.4, -0.8], abs=0.01)
    assert command.max(axis=0) == pytest.approx([1.0, 0.4, 0.8], abs=0.01)
    assert (command == 0).all(axis=1).mean() == pytest.approx(0.1, abs=0.01)


def test_reset_terms_change_only_what_they_name():
    def fresh():
        return resets.Start(
            base_position_w=np.zeros((9, 3)),
            base_quaternion=np.tile([1.0, 0, 0, 0], (9, 1)),
            base_linear_velocity_w=np.zeros((9, 3)),
            base_angular_velocity_b=np.zeros((9, 3)),
            joint_position=np.zeros((9, 12)),
            joint_velocity=np.zeros((9, 12)),
        )

    changes = {
        "joint_position": {"joint_position"},
        "yaw": {"base_quaternion"},
        "base_velocity": {"base_linear_velocity_w", "base_angular_velocity_b"},
    }
    for name, term in available(resets).items():
        start, before = fresh(), fresh()
        term(start, np.random.default_rng(0))
        changed = {
            field.name
            for field in dataclasses.fields(start)
            if not np.array_equal(getattr(start, field.name), getattr(before, field.name))
        }
        assert changed == changes[name], name
        assert np.linalg.norm(start.base_quaternion, axis=1) == pytest.approx(1.0)
