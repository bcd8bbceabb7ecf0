"""Terms as a user writes them, outside of our packages: named as foreign_terms:FUNCTION."""

import numpy as np

from rfx.robot.mirror_images import feet, joints, mirrored


def spin(state, power=2.0):
    return np.abs(state.robot.base_angular_velocity_b[:, 2]) ** power


def column(state):
    return state.base_height[:, None]


def upside_down(state: "SimState", least: float = 0.5):  # noqa: F821  (a name that nothing imports)
    return state.robot.projected_gravity_b[:, 2] > least


def heavy(draw, rng, scale):
    draw.field("body_mass")[...] *= rng.uniform(*scale, (draw.num, 1))


def lift(rng, num, speed_m_s):
    change = np.zeros((num, 6))
    change[:, 2] = rng.uniform(*speed_m_s, num)
    return change


def crouched(start, rng, by_rad=0.1):
    start.joint_position[...] += by_rad


def forwards(rng, num, vx):
    command = np.zeros((num, 3), np.float32)
    command[:, 0] = rng.uniform(*vx, num)
    return command


def bowl(tile, depth_m=(0.0, 0.1)):
    return -tile.at(depth_m) * np.clip(tile.distance, 0.0, 1.0) * np.clip(tile.reach - tile.distance, 0.0, 1.0)


def acceleration(state):
    return state.joint_acceleration


@mirrored(joints)
def joint_speed(state):
    return np.abs(state.joint_velocity)


@mirrored((-1, 1))
def tilt(state):
    return state.projected_gravity_b[:, [1, 0]]


@mirrored(feet)
def foot_number(state):
    return np.arange(len(state.config.feet), dtype=np.float32) + np.zeros((len(state.gait_phase), 1), np.float32)


@mirrored((1, 1, 1))
def too_few_signs(state):
    return state.joint_position


def unmirrored(state):
    return state.joint_velocity[:, :2]


def flat(state):
    return state.joint_velocity[:, 0]


def needs_more(state, gain):
    return gain * state.joint_velocity


def no_robot():
    return 0.0


not_a_function = 3.0
