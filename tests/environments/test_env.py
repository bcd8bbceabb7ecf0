"""The environment: Gymnasium's contract, physics that obeys, repeatability, and simulations that break."""

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs  # noqa: F401  (registers)
from envs.legged import rewards
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv, velocity_error
from envs.legged.simulation import rotate_inverse
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.robot.state import FAILED, projected_gravity

QUIET = {"random_start_age": False, "resets": {}}


def make(num_envs=4, **overrides) -> LeggedEnv:
    return LeggedEnv(num_envs, task="go2", **overrides)


def test_single_environment_passes_gymnasiums_checker():
    check_env(gymnasium.make("rfx/Go2-v0").unwrapped)


def test_make_gives_observation_and_action_of_one_robot():
    env = gymnasium.make("rfx/Go2-v0")
    observation, _ = env.reset(seed=1)
    assert observation["state"].shape == (64,) and env.action_space.shape == (12,)
    observation, reward, terminated, truncated, _ = env.step(np.zeros(12, np.float32))
    assert (
        env.observation_space.contains(observation) and isinstance(reward, float) and not terminated and not truncated
    )


def test_make_vec_keeps_gymnasiums_vector_contract():
    env = gymnasium.make_vec("rfx/Go2-v0", num_envs=5)
    assert env.num_envs == 5 and env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space and info == {}
    assert env.action_space.shape == (5, 12)
    env.action_space.seed(0)
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (5,)
        assert reward.dtype == np.float32 and terminated.dtype == truncated.dtype == bool
    env.close()


def test_observation_is_48_real_numbers_then_zeros():
    env = make(
        randomize=False,
        commands={"uniform_velocity": {"vx": [0.3, 0.6], "vy": [0, 0], "yaw_rate": [0, 0], "zero_share": 0.0}},
    )
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(np.full((4, 12), 0.2, np.float32))
    state = observation["state"]
    assert np.isfinite(state).all() and not state[:, 48:].any() and (state[:, 33:45] == np.float32(0.2)).all()
    np.testing.assert_allclose(state[:, :12] + GO2_CONFIG.default_position, env.state.robot.joint_position, atol=1e-6)
    # the clock: 5 steps of 20 ms at 2.5 Hz are a quarter of a cycle
    np.testing.assert_allclose(state[:, 45:48], np.tile([1.0, 0.0, 0.0], (4, 1)), atol=1e-6)


def test_the_clock_of_a_robot_that_is_told_to_stand_ends_its_half_cycle_and_waits():
    """At 2.5 Hz and 50 Hz half a cycle is ten steps: feet that swing come down in its last one."""
    env = make(2, randomize=False, random_start_age=False)
    env.reset(seed=0)
    command = env.state.robot.velocity_command
    clocks, swing = [], []
    for num_steps, wanted in (
        (7, [0.3, 0.0, 0.0]),
        (15, [0.0, 0.0, 0.0]),
        (13, [0.0, 0.0, -0.1]),
        (12, [0.0, 0.0, 0.0]),
    ):
        command[0], command[1] = wanted, [0.5, 0.0, 0.0]
        for _ in range(num_steps):
            observation = env.step(np.zeros((2, 12), np.float32))[0]["state"]
            clocks.append(observation[:, 45:48])
            swing.append(env.state.foot_swing[0].any())
    waits = [0, 0, 0]
    runs = [[np.sin(p), np.cos(p), np.sin(2 * p)] for p in np.arange(1, 48) * 2 * np.pi * 2.5 / 50]
    first = runs[:9] + [waits] * 13 + runs[:19] + [waits] * 6
    np.testing.assert_allclose(clocks, np.stack([first, runs], axis=1), atol=2e-5)  # float32 phases add up
    assert not any(swing[9:23]) and any(swing[3:9]) and not any(swing[41:])


def test_observations_are_not_overwritten_by_later_steps():
    env = make()
    first, _ = env.reset(seed=0)
    kept = first["state"].copy()
    env.step(np.ones((4, 12), np.float32))
    np.testing.assert_array_equal(first["state"], kept)


def test_same_step_autoreset_returns_both_observations():
    env = make(3, episode_length_s=0.1, **QUIET)  # 5 steps
    env.reset(seed=0)
    for _ in range(4):
        *_, terminated, truncated, info = env.step(np.zeros((3, 12), np.float32))
        assert not terminated.any() and not truncated.any() and info == {}
    observation, _, terminated, truncated, info = env.step(np.zeros((3, 12), np.float32))
    assert truncated.all() and not terminated.any() and info["_final_obs"].all()
    final = np.stack([last["state"] for last in info["final_obs"]])
    assert final[0, 45] == pytest.approx(1.0, abs=1e-6)  # the ended episode's clock
    assert observation["state"][0, 45] == 0.0 and observation["state"][0, 46] == 1.0  # the new one's
    assert env.metrics()["episode/length_s"] == pytest.approx(0.1)


def test_a_fall_terminates_and_is_not_a_truncation():
    env = make(2, **QUIET)
    env.reset(seed=0)
    env.simulation.batch.qpos[0, 3:7] = [np.sqrt(0.5), np.sqrt(0.5), 0, 0]  # on its side
    *_, terminated, truncated, info = env.step(np.zeros((2, 12), np.float32))
    assert (
        terminated.tolist() == [True, False] and not truncated.any() and info["_final_info"].tolist() == [True, False]
    )
    assert rewards.fall(env.state).tolist() == [1.0, 0.0]


def test_standing_still_on_zero_action_follows_a_zero_command():
    still = {"uniform_velocity": {"vx": [0, 0], "vy": [0, 0], "yaw_rate": [0, 0]}}
    env = make(2, commands=still, randomize=False, **QUIET)
    env.reset(seed=0)
    for _ in range(100):
        *_, terminated, _, _ = env.step(np.zeros((2, 12), np.float32))
        assert not terminated.any()
    assert np.abs(velocity_error(env.state)).max() < 0.02
    assert env.state.foot_contact.all() and not env.state.base_contact.any()
    # First order statics: a quarter of the weight turns the knee at a lever of 0.213 m sin 0.9 and the hip at one of
    # 0.0955 m,
    # each by load * lever / kp, and each turn lowers the base by its lever. The levers grow as the leg bends: 1.5 cm of
    # tolerance.
    load, kp = 15.2 * 9.81 / 4, GO2_CONFIG.joints[2].kp
    sag = load / kp * ((0.213 * np.sin(0.9)) ** 2 + 0.0955**2)
    np.testing.assert_allclose(env.state.base_height, env.simulation.model.key("home").qpos[2] - sag, atol=0.015)


def test_a_foot_lands_in_one_step_only_and_not_at_a_reset():
    env = make(2, **QUIET)
    env.reset(seed=0)
    assert env.state.foot_contact.all() and not env.state.foot_landed.any()
    env.simulation.batch.qpos[:, 2] += 0.02  # 64 ms of falling
    landed, contact = [], []
    for _ in range(10):
        env.step(np.zeros((2, 12), np.float32))
        landed.append(env.state.foot_landed.copy())
        contact.append(env.state.foot_contact.copy())
    first = np.argmax(contact, axis=0)
    assert (first >= 1).all() and (np.argmax(landed, axis=0) == first).all() and (np.sum(landed, axis=0) == 1).all()


def test_feet_swing_with_the_gait_clock_unless_told_to_stand():
    """FL and RR share a phase, FR and RL the opposite one; of the 20 steps of a cycle at 2.5 Hz a foot stands for 12,
    then swings for 8.
    """
    env = make(2, **QUIET)
    env.reset(seed=0)
    env.state.robot.velocity_command[...] = [[0.5, 0, 0], [0, 0, 0]]
    swing = []
    for _ in range(20):
        env.step(np.zeros((2, 12), np.float32))
        swing.append(env.state.foot_swing.copy())
    swing = np.array(swing)  # (20, 2, 4) of FR, FL, RR, RL; step 12, exactly at the change, may round to either side
    assert not swing[:, 1].any()
    assert (swing[:, 0, 0] == swing[:, 0, 3]).all() and (swing[:, 0, 1] == swing[:, 0, 2]).all()
    assert not (swing[:, 0, 0] & swing[:, 0, 1]).any()
    assert not swing[:11, 0, 1].any() and swing[12:19, 0, 1].all() and not swing[19, 0, 1]


def test_state_is_mujocos_state():
    env = make(6)
    env.reset(seed=0)
    rng = np.random.default_rng(1)
    for _ in range(10):
        env.step(rng.uniform(-1, 1, (6, 12)).astype(np.float32))
    model, batch = env.simulation.model, env.simulation.batch
    for i in range(6):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = batch.qpos[i], batch.qvel[i]
        mujoco.mj_forward(model, data)
        rotation = data.body("base").xmat.reshape(3, 3)
        np.testing.assert_allclose(env.state.base_linear_velocity_b[i], rotation.T @ data.qvel[:3], atol=1e-5)
        np.testing.assert_allclose(env.state.robot.projected_gravity_b[i], rotation.T @ [0, 0, -1], atol=1e-6)
        np.testing.assert_allclose(env.state.robot.base_angular_velocity_b[i], data.sensor("imu_gyro").data, atol=1e-5)
        for j, joint in enumerate(GO2_CONFIG.joint_names):
            assert env.state.robot.joint_position[i, j] == pytest.approx(data.joint(joint).qpos[0], abs=1e-6)
            assert env.state.robot.joint_velocity[i, j] == pytest.approx(data.joint(joint).qvel[0], abs=1e-5)


def test_rotations_match_mujocos():
    rng = np.random.default_rng(0)
    quaternion = rng.normal(size=(50, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    vector, expected = rng.normal(size=(50, 3)), np.empty((50, 3))
    for q, v, out in zip(quaternion, vector, expected):
        conjugate = np.empty(4)
        mujoco.mju_negQuat(conjugate, q)
        mujoco.mju_rotVecQuat(out, v, conjugate)
    np.testing.assert_allclose(rotate_inverse(quaternion, vector), expected, atol=1e-6)
    down = np.tile([0.0, 0.0, -1.0], (50, 1))
    np.testing.assert_allclose(projected_gravity(quaternion), rotate_inverse(quaternion, down), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_seed_repeats_an_episode_bit_for_bit_at_any_thread_count(threads):
    def play(seed, num_threads):
        env = make(16, episode_length_s=1.0, command_interval_s=(0.1, 0.3), threads=num_threads)
        rng = np.random.default_rng(5)
        out = [env.reset(seed=seed)[0]["state"]]
        for _ in range(60):
            observation, reward, *_ = env.step(rng.uniform(-1, 1, (16, 12)).astype(np.float32))
            out += [observation["state"], reward]
        return [array.tobytes() for array in out]

    assert play(7, threads) == play(7, 1)
    assert play(7, threads) != play(8, 1)


def test_environments_do_not_influence_each_other():
    """Row 0 goes the same way whatever the other rows do."""

    def first_row(noise):
        env = make(4, **QUIET)
        env.reset(seed=0)
        for t in range(20):
            action = np.full((4, 12), 0.1 * np.sin(t), np.float32)
            action[1:] += noise
            observation, *_ = env.step(action)
        return observation["state"][0]

    np.testing.assert_array_equal(first_row(0.0), first_row(0.5))


def test_commands_change_at_the_stated_intervals_and_stay_in_range():
    env = make(64, command_interval_s=(0.2, 0.4), episode_length_s=100.0, random_start_age=False, terminations={})
    env.reset(seed=0)
    last, held, seen = env.state.robot.velocity_command.copy(), np.zeros(64, int), []
    for _ in range(100):
        env.step(np.zeros((64, 12), np.float32))
        command, held = env.state.robot.velocity_command, held + 1
        changed = (command != last).any(axis=1)
        seen += held[changed].tolist()
        held[changed], last = 0, command.copy()
        assert (command[:, 0] >= -0.6).all() and (command[:, 0] <= 1.0).all() and (np.abs(command[:, 1]) <= 0.4).all()
    assert (
        min(seen) >= 10 and max(s for s in seen if s <= 20) <= 20
    )  # two zero commands in a row look like a longer one
    assert np.mean(seen) == pytest.approx(15, abs=1.5)


def test_a_broken_simulation_is_truncated_flagged_and_started_anew():
    env = make(4, **QUIET)
    env.reset(seed=0)
    env.simulation.batch.qvel[2, 8] = np.nan
    observation, reward, terminated, truncated, info = env.step(np.zeros((4, 12), np.float32))
    assert info[FAILED].tolist() == [False, False, True, False]
    assert truncated.tolist() == [False, False, True, False] and not terminated.any() and reward[2] == 0.0
    assert np.isfinite(observation["state"]).all() and np.isfinite(reward).all()
    observation, reward, *_ = env.step(np.zeros((4, 12), np.float32))
    assert np.isfinite(observation["state"]).all() and np.isfinite(reward).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewards": {"tilte": {"weight": -1.0}}}, ["tilte", "tilt"]),
        ({"rewards": {"tilt": {"weigth": -1.0}}}, ["tilt", "weight"]),
        ({"rewards": {"swing_height": {"weight": 1.0, "targt_m": 0.1}}}, ["targt_m", "target_m"]),
        ({"terminations": {"fell": {}}}, ["fell", "possible are"]),
        ({"commands": {"uniform_velocity": {"vx": [0, 1]}}}, ["uniform_velocity", "vy", "yaw_rate"]),
        ({"num_env": 5}, ["num_env", "num_envs"]),
        ({"timestep_s": 0.003}, ["timestep_s", "0.003"]),
        ({"command_interval_s": [5, 3]}, ["command_interval_s"]),
    ],
)
def test_a_wrong_task_is_refused_with_the_nearest_name(change, words):
    with pytest.raises(ValueError) as error:
        LeggedEnv(2, task="go2", config=EnvConfig.load("go2", **change))
    assert all(word in str(error.value) for word in words)


def test_an_unknown_robot_names_those_there_are():
    with pytest.raises(ValueError, match="unknown robot 'go3': did you mean 'go2'"):
        EnvConfig.load("go3")


def test_an_entry_may_have_a_name_of_its_own_and_say_its_term():
    once, twice = (
        make(**{**QUIET, "randomize": False, "rewards": rewards})
        for rewards in (
            {"tilt": {"weight": -3.0}},
            {"tilt": {"weight": -1.0}, "tilt_more": {"term": "tilt", "weight": -2.0}},
        )
    )
    for env in (once, twice):
        env.reset(seed=0)
        env.simulation.batch.qpos[:, 3:7] = [np.cos(0.2), np.sin(0.2), 0, 0]
    np.testing.assert_allclose(*(env.step(np.zeros((4, 12), np.float32))[1] for env in (once, twice)), rtol=1e-6)
    assert twice.metrics()["reward/tilt_more"] == pytest.approx(2.0 * once.metrics()["reward/tilt"] / 3.0)


def test_every_section_takes_terms_under_other_names():
    plain = {
        "commands": {"uniform_velocity": {"vx": [0.2, 0.6], "vy": [0, 0], "yaw_rate": [0, 0]}},
        "resets": {"yaw": {}},
        "randomization": {"payload": {"range_kg": [1.0, 2.0]}},
        "pushes": {"shove": {"speed_m_s": [0.5, 1.0]}},
        "noise": {},
        "push_interval_s": [0.04, 0.1],
        "terminations": {"base_low": {"min_height_m": 0.27}},
        "terrain": {"num_levels": 2, "tile_m": 4.0, "kinds": {"slope_up": {"angle_deg": [0.0, 10.0]}}},
    }
    named = {
        key: {f"my_{name}": {"term": name, **parameters} for name, parameters in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in plain.items()
        if key not in ("noise", "terrain")
    } | {"noise": {}}
    named["terrain"] = plain["terrain"] | {"kinds": {"my_slope": {"term": "slope_up", "angle_deg": [0.0, 10.0]}}}
    seen = []
    for task in (plain, named):
        env = make(4, randomize=True, random_start_age=False, **task)
        env.reset(seed=0)
        seen.append(
            [
                np.concatenate((observation["state"].ravel(), terminated))
                for observation, _, terminated, *_ in (env.step(np.full((4, 12), 0.3, np.float32)) for _ in range(40))
            ]
        )
    np.testing.assert_array_equal(*seen)
    assert np.array(seen)[:, :, -4:].any()  # some fell


def test_the_mean_velocity_forgets_over_half_a_cycle_of_the_gait():
    """At 2.5 Hz and 50 Hz the newest velocity weighs a tenth; an episode begins with the velocity that it starts
    with.
    """
    env = make(3, randomize=False)
    env.reset(seed=0)
    state = env.state

    def now():
        return np.column_stack([state.base_linear_velocity_b[:, :2], state.robot.base_angular_velocity_b[:, 2]]).astype(
            float
        )

    expected = now()
    np.testing.assert_allclose(state.mean_velocity_b, expected, atol=1e-6)
    for _ in range(5):
        env.step(np.full((3, 12), 0.3, np.float32))
        expected = 0.9 * expected + 0.1 * now()
    np.testing.assert_allclose(state.mean_velocity_b, expected, atol=1e-5)


def test_a_reward_with_a_ramp_grows_to_its_weight_with_the_steps_of_all_environments():
    """From 0 at 8 steps to all of it at 24: with 4 environments at the third and the seventh.

    A part of them, and one that goes on, do the same.
    """
    height = {"term": "base_height", "weight": -10.0, "target_m": 1.0}
    rewards = {"always": height, "later": height | {"ramp": [8, 24]}}
    config = EnvConfig.load("go2", num_envs=4, randomize=False, rewards=rewards)

    def shares(env, num_steps):
        for _ in range(num_steps):
            env.step(np.zeros((env.num_envs, 12), np.float32))
            measured = env.measured()
            yield measured["reward/later"] / measured["reward/always"]

    whole, part, other = (
        LeggedEnv(config=config, robot=GO2_CONFIG),
        LeggedEnv(config=config, robot=GO2_CONFIG, rows=range(2, 4)),
        LeggedEnv(config=config, robot=GO2_CONFIG),
    )
    for env, first in ((whole, 0), (part, 2), (other, 0)):
        env.reset(seed=first)
    expected = np.array([0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    seen = np.array([*shares(whole, 4)])
    np.testing.assert_allclose(seen, np.repeat(expected[:4, None], 4, axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.array([*shares(part, 8)])[:, 0], expected, rtol=1e-5)
    other.load_state_dict(whole.state_dict())
    np.testing.assert_allclose(np.array([*shares(other, 4)])[:, 0], expected[4:], rtol=1e-5)


@pytest.mark.parametrize("ramp", [[5, 5], [-1, 5], [5]])
def test_a_ramp_goes_up(ramp):
    with pytest.raises(ValueError, match="env.rewards.tilt.ramp is .*: it must be"):
        make(1, rewards={"tilt": {"weight": 1.0, "ramp": ramp}})
