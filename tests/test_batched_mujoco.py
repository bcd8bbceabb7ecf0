"""Gymnasium's MuJoCo tasks in batches are Gymnasium's own: step for step, episode after episode, from the same seed and actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs  # noqa: F401  (registers the batched tasks)

NUM_ENVS = 3
OPTIONS = {  # of each task, none as by default
    "HalfCheetah-v5": {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3, "reset_noise_scale": 0.2,
                       "exclude_current_positions_from_observation": False},
    "Hopper-v5": {"healthy_reward": 0.5, "healthy_z_range": (0.9, 1.5), "healthy_angle_range": (-0.1, 0.3), "healthy_state_range": (-5.0, 5.0),
                  "exclude_current_positions_from_observation": False},
    "Walker2d-v5": {"ctrl_cost_weight": 0.1, "terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False},
    "Swimmer-v5": {"forward_reward_weight": 3.0, "frame_skip": 2, "exclude_current_positions_from_observation": False},
    "Ant-v5": {"contact_cost_weight": 0.1, "contact_force_range": (-3.0, 2.0), "healthy_z_range": (0.4, 0.9), "main_body": 3,
               "include_cfrc_ext_in_observation": False, "exclude_current_positions_from_observation": False},
    "Humanoid-v5": {"contact_cost_weight": 1e-3, "contact_cost_range": (0.5, 3.0), "healthy_z_range": (1.2, 1.6),
                    "include_cinert_in_observation": False, "include_qfrc_actuator_in_observation": False,
                    "exclude_current_positions_from_observation": False},
    "Reacher-v5": {"reward_dist_weight": 2.0, "reward_control_weight": 0.5},
    "Pusher-v5": {"reward_near_weight": 0.1, "reward_dist_weight": 3.0, "reward_control_weight": 0.7, "frame_skip": 4},
    "InvertedPendulum-v5": {"reset_noise_scale": 0.1, "frame_skip": 1},
    "InvertedDoublePendulum-v5": {"healthy_reward": 7.0, "reset_noise_scale": 0.05},
}


def both(id: str, **options):
    """The batched task and Gymnasium's own, side by side."""
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
            np.testing.assert_allclose(np.asarray(ours[name])[mask].astype(float), np.asarray(values)[mask].astype(float), rtol=0, atol=1e-6,
                                       err_msg=name)


@pytest.mark.parametrize("changed", [False, True], ids=["defaults", "options"])
@pytest.mark.parametrize("id", OPTIONS)
def test_every_step_is_gymnasiums_own(id: str, changed: bool) -> None:
    """1,000 environment steps by default, 300 with options; of random actions, in episodes that end and begin as they do there."""
    ours, theirs = both(id, **(OPTIONS[id] if changed else {}))
    assert ours.single_observation_space == theirs.single_observation_space and ours.single_action_space == theirs.single_action_space
    (observation, info), (expected, expected_info) = ours.reset(seed=7), theirs.reset(seed=7)
    np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-6)
    assert_same_info(info, expected_info)
    rng, low, high = np.random.default_rng(0), theirs.single_action_space.low, theirs.single_action_space.high
    ends = 0
    for _ in range(100 if changed else 334):
        action = rng.uniform(low, high, (NUM_ENVS, len(low))).astype(np.float32)
        (*got, info), (*expected, expected_info) = ours.step(action), theirs.step(action)
        for name, one, other in zip(("observation", "reward", "terminated", "truncated"), got, expected):
            np.testing.assert_allclose(np.asarray(one, float), np.asarray(other, float), rtol=0, atol=1e-6, err_msg=name)
        assert_same_info(info, expected_info)
        ends += int((got[2] | got[3]).sum())
    if id in ("Hopper-v5", "Humanoid-v5", "Reacher-v5", "InvertedDoublePendulum-v5"):
        assert ends > 2
