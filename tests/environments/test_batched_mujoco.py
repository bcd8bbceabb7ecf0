"""Gymnasium's MuJoCo tasks in batches are Gymnasium's own: step for step, episode after episode, from the same seed and
actions.
"""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from mujoco.batch import SimulationError

import envs  # noqa: F401  (registers the batched tasks)
from rfx.robot.state import FAILED

NUM_ENVS = 3
OPTIONS = {  # of each task, none as by default
    "HalfCheetah-v5": {
        "forward_reward_weight": 2.0,
        "ctrl_cost_weight": 0.3,
        "reset_noise_scale": 0.2,
        "exclude_current_positions_from_observation": False,
    },
    "Hopper-v5": {
        "healthy_reward": 0.5,
        "healthy_z_range": (0.9, 1.5),
        "healthy_angle_range": (-0.1, 0.3),
        "healthy_state_range": (-5.0, 5.0),
        "exclude_current_positions_from_observation": False,
    },
    "Walker2d-v5": {
        "ctrl_cost_weight": 0.1,
        "terminate_when_unhealthy": False,
        "exclude_current_positions_from_observation": False,
    },
    "Swimmer-v5": {"forward_reward_weight": 3.0, "frame_skip": 2, "exclude_current_positions_from_observation": False},
    "Ant-v5": {
        "contact_cost_weight": 0.1,
        "contact_force_range": (-3.0, 2.0),
        "healthy_z_range": (0.4, 0.9),
        "main_body": 3,
        "include_cfrc_ext_in_observation": False,
        "exclude_current_positions_from_observation": False,
    },
    "Humanoid-v5": {
        "contact_cost_weight": 1e-3,
        "contact_cost_range": (0.5, 3.0),
        "healthy_z_range": (1.2, 1.6),
        "include_cinert_in_observation": False,
        "include_qfrc_actuator_in_observation": False,
        "exclude_current_positions_from_observation": False,
    },
    "Reacher-v5": {"reward_dist_weight": 2.0, "reward_control_weight": 0.5},
    "Pusher-v5": {"reward_near_weight": 0.1, "reward_dist_weight": 3.0, "reward_control_weight": 0.7, "frame_skip": 4},
    "InvertedPendulum-v5": {"reset_noise_scale": 0.1, "frame_skip": 1},
    "InvertedDoublePendulum-v5": {"healthy_reward": 7.0, "reset_noise_scale": 0.05},
}


def both(id: str, **options):
    """The batched task and Gymnasium's own, side by side."""
    pytest.importorskip("imageio", reason="Gymnasium's own MuJoCo tasks need it")
    theirs = SyncVectorEnv([lambda: gymnasium.make(id, **options)] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    return gymnasium.make_vec(f"rfx/{id}", NUM_ENVS, threads=1, **options), theirs


def assert_same_info(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        mask = theirs.get(f"_{name}", slice(None))
        if name == "final_info":
            assert_same_info(ours[name], values)
        elif name == "final_obs":
            for own, other in zip(ours[name], values):
                assert (own is None) == (other is None)
                if own is not None:
                    np.testing.assert_allclose(own, other, rtol=0, atol=1e-6)
        else:
            np.testing.assert_allclose(
                np.asarray(ours[name])[mask].astype(float),
                np.asarray(values)[mask].astype(float),
                rtol=0,
                atol=1e-6,
                err_msg=name,
            )


@pytest.mark.long
@pytest.mark.parametrize("id", OPTIONS)
def test_a_whole_episode_and_more_is_gymnasiums_own(id: str) -> None:
    compare(id, 1_010)


@pytest.mark.parametrize("changed", [False, True], ids=["defaults", "options"])
@pytest.mark.parametrize("id", OPTIONS)
def test_every_step_is_gymnasiums_own(id: str, changed: bool) -> None:
    """1,000 environment steps by default, 300 with options."""
    ends = compare(id, 100 if changed else 334, **(OPTIONS[id] if changed else {}))
    assert ends > 2 or id not in ("Hopper-v5", "Humanoid-v5", "Reacher-v5", "InvertedDoublePendulum-v5")


def compare(id: str, num_steps: int, **options) -> int:
    """Both take random actions, in episodes that end and begin as in Gymnasium's own. Returns how many ended."""
    ours, theirs = both(id, **options)
    assert (
        ours.single_observation_space == theirs.single_observation_space
        and ours.single_action_space == theirs.single_action_space
    )
    (observation, info), (expected, expected_info) = ours.reset(seed=7), theirs.reset(seed=7)
    np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-6)
    assert_same_info(info, expected_info)
    rng, low, high = np.random.default_rng(0), theirs.single_action_space.low, theirs.single_action_space.high
    ends = 0
    for _ in range(num_steps):
        action = rng.uniform(low, high, (NUM_ENVS, len(low))).astype(np.float32)
        (*got, info), (*expected, expected_info) = ours.step(action), theirs.step(action)
        for name, one, other in zip(("observation", "reward", "terminated", "truncated"), got, expected):
            np.testing.assert_allclose(
                np.asarray(one, float), np.asarray(other, float), rtol=0, atol=1e-6, err_msg=name
            )
        assert_same_info(info, expected_info)
        ends += int((got[2] | got[3]).sum())
    return ends


@pytest.mark.parametrize("id", OPTIONS)
def test_a_state_is_all_that_the_next_step_depends_on(id: str) -> None:
    one, other = (gymnasium.make_vec(f"rfx/{id}", NUM_ENVS, threads=1) for _ in range(2))
    one.reset(seed=3)
    other.reset(seed=4)
    actions = (
        np.random.default_rng(0)
        .uniform(one.action_space.low, one.action_space.high, (60, *one.action_space.shape))
        .astype(np.float32)
    )
    for action in actions[:20]:
        one.step(action)
    other.load_state_dict(one.state_dict())
    for action in actions[20:]:  # Hopper, Humanoid and Reacher end and begin episodes in them
        for mine, theirs in zip(one.step(action)[:4], other.step(action)[:4]):
            np.testing.assert_array_equal(mine, theirs)


def test_a_simulation_that_breaks_is_left_out_and_started_anew(monkeypatch) -> None:
    env = gymnasium.make_vec("rfx/Walker2d-v5", NUM_ENVS, threads=1)
    env.reset(seed=0)

    def broken() -> None:
        raise SimulationError(np.array([1]), "it broke")

    monkeypatch.setattr(env, "_advance", broken)
    observation, reward, terminated, truncated, info = env.step(np.zeros((NUM_ENVS, 6), np.float32))
    np.testing.assert_array_equal(truncated, [False, True, False])
    np.testing.assert_array_equal(info[FAILED], truncated)
    assert reward[1] == 0.0 and not terminated.any() and env._steps.tolist() == [1, 0, 1]
    fresh = gymnasium.make_vec("rfx/Walker2d-v5", 1, threads=1)
    fresh.reset(seed=1)  # environment 1 draws as Gymnasium's after reset(seed=0 + 1), and this is its second start
    np.testing.assert_array_equal(observation[1], fresh.reset()[0][0])


def test_an_option_or_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match="HopperEnv has no option 'healthy_range': did you mean"):
        gymnasium.make_vec("rfx/Hopper-v5", 1, healthy_range=(0.0, 1.0))
    with pytest.raises(FileNotFoundError, match="got xml_file 'hoper.xml'"):
        gymnasium.make_vec("rfx/Hopper-v5", 1, xml_file="hoper.xml")
