"""The Go2's mirror image: maps against MuJoCo, which knows nothing of them, and against numbers worked by hand."""

import dataclasses

import mujoco
import numpy as np
import pytest

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.mjcf import load_model, motor_addresses
from rfx.robot.config import joint_targets
from rfx.robot.mirror import Mirror
from rfx.robot.observe import observe
from rfx.robot.state import RobotState, advance, projected_gravity

MIRROR = Mirror(GO2_CONFIG)
NAMES = list(GO2_CONFIG.joint_names)


def observations(num=200, seed=0):
    """Any state of a walking robot at any phase; the clock's three numbers are those of one phase."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(num, 48)).astype(np.float32)
    phase = rng.uniform(0.0, 2.0 * np.pi, num).astype(np.float32)
    state[:, 45:] = np.stack((np.sin(phase), np.cos(phase), np.sin(2.0 * phase)), axis=1)
    return state, phase


def test_every_entry_goes_where_it_must():
    """Joint by joint, from the names; vectors by their components."""
    state, _ = observations()
    mirrored = MIRROR.observation(state)
    for i, name in enumerate(NAMES):
        other = {"FR": "FL", "FL": "FR", "RR": "RL", "RL": "RR"}[name[:2]] + name[2:]
        sign = -1.0 if "hip" in name else 1.0
        for begin in (0, 12, 33):
            np.testing.assert_array_equal(mirrored[:, begin + i], sign * state[:, begin + NAMES.index(other)])
        np.testing.assert_array_equal(MIRROR.action(state[:, :12])[:, i], sign * state[:, NAMES.index(other)])
    for begin, signs in ((24, (-1, 1, -1)), (27, (1, -1, 1)), (30, (1, -1, -1)), (45, (-1, -1, 1))):
        columns = slice(begin, begin + len(signs))
        np.testing.assert_array_equal(mirrored[:, columns], state[:, columns] * np.array(signs, np.float32))
    assert mirrored.dtype == np.float32 and mirrored.base is None


def test_mirrored_twice_it_is_what_it_was():
    state, _ = observations(2000)
    np.testing.assert_array_equal(MIRROR.observation(MIRROR.observation(state)), state)
    np.testing.assert_array_equal(MIRROR.action(MIRROR.action(state[:, :12])), state[:, :12])


def test_a_history_is_mirrored_frame_by_frame():
    state, _ = observations(30)
    np.testing.assert_array_equal(
        MIRROR.observation(state.reshape(10, 3, 48)).reshape(30, 48), MIRROR.observation(state)
    )


def test_the_clocks_image_is_that_of_a_phase_half_a_cycle_on():
    state, phase = observations(5000)
    image = phase.astype(np.float64) + np.pi
    expected = np.stack((np.sin(image), np.cos(image), np.sin(2.0 * image)), axis=1)
    np.testing.assert_allclose(MIRROR.observation(state)[:, 45:], expected, atol=5e-7)


def test_a_robot_that_stands_sees_no_clock():
    """It stands when it is told to and has ended its last step."""
    state = RobotState.zeros(GO2_CONFIG, 3)
    state.gait_phase[:2], state.velocity_command[1, 2] = 1.0, 0.1
    runs = [np.sin(1.0), np.cos(1.0), np.sin(2.0)]
    np.testing.assert_allclose(observe(state)[:, 45:48], [runs, runs, [0, 0, 0]], atol=1e-7)


def test_feet_in_step_have_a_clock_that_is_its_own_image():
    feet = tuple(dataclasses.replace(foot, gait_offset=0.0) for foot in GO2_CONFIG.feet)
    state, _ = observations(10)
    np.testing.assert_array_equal(
        Mirror(dataclasses.replace(GO2_CONFIG, feet=feet)).observation(state)[:, 45:], state[:, 45:]
    )


def symmetric_model() -> mujoco.MjModel:
    """The Go2 without its two asymmetries: axes of the trunk's inertia turned by a thousandth, and calves all made as
    the right ones.
    """
    model, turned = load_model(GO2_CONFIG), np.array([1, -1, 1, -1])
    trunk = model.body("base").id
    model.body_iquat[trunk] = (model.body_iquat[trunk] * [1, 0, 1, 0]) / np.linalg.norm(
        model.body_iquat[trunk] * [1, 0, 1, 0]
    )
    for leg in "FR":
        right, left = (model.body(f"{leg}{side}_calf").id for side in "RL")
        model.body_ipos[left], model.body_iquat[left] = (
            model.body_ipos[right] * [1, -1, 1],
            model.body_iquat[right] * turned,
        )
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def simulate(model, qpos, qvel, action):
    """qpos and qvel after one control step of 20 ms, and whether anything was touched."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    data.ctrl[motor_addresses(model, GO2_CONFIG).actuator] = joint_targets(GO2_CONFIG, action[None])[0]
    mujoco.mj_step(model, data, 4)
    return data.qpos.copy(), data.qvel.copy(), data.ncon > 0


def reflected(model, qpos, qvel):
    """The state in a mirror on the x axis: of vectors y turns around, of rotations x and z; legs change places.

    By names alone.
    """
    signs = np.array([1, -1, 1, 1, -1, 1, -1]), np.array([1, -1, 1, -1, 1, -1])
    result = [np.zeros_like(qpos), np.zeros_like(qvel)]
    motors = motor_addresses(model, GO2_CONFIG)
    for new, old, sign, address in zip(result, (qpos, qvel), signs, (motors.qpos, motors.qvel)):
        new[: len(sign)] = sign * old[: len(sign)]
        for i, name in enumerate(NAMES):
            other = NAMES.index(name[0] + {"R": "L", "L": "R"}[name[1]] + name[2:])
            new[address[i]] = old[address[other]] * (-1.0 if "hip" in name else 1.0)
    return result


def observed(model, qpos, qvel, action, phase, command):
    """What the robot observes there after action. (1, 48)."""
    motors, state = motor_addresses(model, GO2_CONFIG), RobotState.zeros(GO2_CONFIG, 1)
    state.joint_position[0], state.joint_velocity[0] = qpos[motors.qpos], qvel[motors.qvel]
    state.base_angular_velocity_b[0], state.velocity_command[0] = qvel[3:6], command
    projected_gravity(qpos[None, 3:7].astype(np.float32), out=state.projected_gravity_b)
    state.gait_phase[0] = phase
    advance(state, action[None])
    return observe(state)[:, :48]


def worst_differences(model):
    """Greatest differences in qpos and qvel, and in the observation, of a mirrored robot from the robot mirrored, a
    control step on.
    """
    worst, touching, rng = np.zeros(3), 0, np.random.default_rng(0)
    for _ in range(60):
        qpos, qvel = model.key("home").qpos + 0.1 * rng.normal(size=19), rng.normal(size=18)
        qpos[2], qpos[3:7] = rng.uniform(0.25, 0.35), qpos[3:7] / np.linalg.norm(qpos[3:7])
        action, command = rng.uniform(-1, 1, 12).astype(np.float32), rng.uniform(-1, 1, 3)
        phase = rng.uniform(0.0, 2.0 * np.pi)
        image = MIRROR.action(action)
        *after, touched = simulate(model, qpos, qvel, action)
        *image_after, _ = simulate(model, *reflected(model, qpos, qvel), image)
        expected = MIRROR.observation(observed(model, *after, action, phase, command))
        got = observed(model, *image_after, image, phase + np.pi, command * [1, -1, -1])
        differences = [np.abs(a - b).max() for a, b in zip((*reflected(model, *after), expected), (*image_after, got))]
        worst, touching = np.maximum(worst, differences), touching + touched
    assert touching > 20
    return worst


def test_a_mirrored_robot_that_acts_mirrored_stays_the_mirror_image():
    """On the ground and above it, over a control step of MuJoCo: to round-off where the robot is symmetric, and nearly
    so as it is.
    """
    position, velocity, observation = worst_differences(symmetric_model())
    assert position < 1e-13 and velocity < 1e-11 and observation < 2e-6  # which is float32
    position, velocity, observation = worst_differences(load_model(GO2_CONFIG))
    assert position < 1e-3 and velocity < 0.05 and observation < 0.05


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observation_terms": ("joint_position", "foreign_terms:unmirrored")}, "foreign_terms:unmirrored"),
        (
            {"joints": tuple(dataclasses.replace(joint, mirror=None) for joint in GO2_CONFIG.joints)},
            "joint 'FR_hip_joint' of robot 'go2' has no",
        ),
        (
            {
                "joints": tuple(
                    dataclasses.replace(joint, action_scale_rad=0.1 * (1 + index))
                    for index, joint in enumerate(GO2_CONFIG.joints)
                )
            },
            "action scales of robot 'go2' that differ between left and right",
        ),
        (
            {
                "feet": tuple(
                    dataclasses.replace(foot, gait_offset=0.25 * index) for index, foot in enumerate(GO2_CONFIG.feet)
                )
            },
            "gait offsets",
        ),
        (
            {"joints": (dataclasses.replace(GO2_CONFIG.joints[0], default_rad=0.1), *GO2_CONFIG.joints[1:])},
            "not its own mirror image",
        ),
    ],
)
def test_a_robot_without_a_mirror_image_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Mirror(dataclasses.replace(GO2_CONFIG, **changed))
