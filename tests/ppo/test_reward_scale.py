"""Rewards scaled by how far discounted returns spread: numbers worked by hand, over several rollouts."""

import json

import numpy as np
import pytest

from train.ppo.reward_scale import RewardScale
from train.ppo.rollout import Rollout


def rollout_of(reward, terminated=None, truncated=None, failed=None) -> Rollout:
    rollout = Rollout.empty(*np.shape(reward), 1, 1)
    for name, values in {"reward": reward, "terminated": terminated, "truncated": truncated, "failed": failed}.items():
        if values is not None:
            getattr(rollout, name)[...] = values
    return rollout


def test_the_spread_is_that_of_all_returns_so_far():
    """gamma 0.5, two environments, two rollouts.

    The first of the second one ends for good, the other goes on from the first rollout.
    """
    scale = RewardScale(2, 0.5)
    first = rollout_of([[2.0, 1.0], [4.0, 3.0]], terminated=[[1, 0], [0, 0]])
    scale.scale(first)
    returns = [2.0, 1.0, 4.0, 3.5]  # 4 begins anew, 3 + 0.5 x 1
    np.testing.assert_allclose(first.reward, np.array([[2.0, 1.0], [4.0, 3.0]]) / np.std(returns), rtol=1e-6)
    assert (scale.mean, scale.var, scale.count) == pytest.approx((np.mean(returns), np.var(returns), 4), rel=1e-12)
    second = rollout_of([[6.0, 1.0]])
    scale.scale(second)
    returns += [8.0, 2.75]  # 6 + 0.5 x 4, 1 + 0.5 x 3.5
    np.testing.assert_allclose(second.reward, np.array([[6.0, 1.0]]) / np.std(returns), rtol=1e-6)
    assert (scale.mean, scale.var, scale.count) == pytest.approx((np.mean(returns), np.var(returns), 6), rel=1e-12)


def test_a_failed_transition_changes_no_return_and_is_not_counted():
    scale = RewardScale(1, 0.5)
    scale.scale(
        rollout_of(
            [[2.0], [1000.0], [4.0], [1000.0], [3.0]],
            failed=[[0], [1], [0], [1], [0]],
            truncated=[[0], [0], [0], [1], [0]],
        )
    )
    returns = [2.0, 5.0, 3.0]  # 4 + 0.5 x 2; the second failure ends the episode
    assert (scale.mean, scale.var, scale.count) == pytest.approx((np.mean(returns), np.var(returns), 3), rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_where_nothing_sound_is_seen_nothing_is_learned():
    scale, rollout = RewardScale(1, 0.5), rollout_of([[2.0]], failed=[[1]])
    scale.scale(rollout)
    assert (scale.mean, scale.var, scale.count) == (0.0, 1.0, 0) and rollout.reward == 2.0


def test_a_scaled_reward_is_at_most_ten_either_way():
    scale, rollout = RewardScale(3, 0.0), rollout_of([[0.0] * 3] * 300 + [[50.0, -50.0, 1.0]])
    scale.scale(rollout)
    np.testing.assert_allclose(rollout.reward[-1, :2], [10.0, -10.0])
    assert 0.0 < rollout.reward[-1, 2] < 10.0 and rollout.reward.dtype == np.float32


def test_equal_returns_do_not_divide_by_zero():
    """A variance of 0 counts as 1e-8: rewards become ten thousand times larger, then are cut to 10."""
    scale, rollout = RewardScale(1, 0.0), rollout_of([[1e-4], [1e-4]])
    scale.scale(rollout)
    np.testing.assert_allclose(rollout.reward, 1.0, rtol=1e-6)


def test_a_saved_scale_goes_on():
    scale, other = RewardScale(2, 0.5), RewardScale(2, 0.5)
    scale.scale(rollout_of([[2.0, 1.0], [4.0, 3.0]]))
    other.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    rollouts = [rollout_of([[6.0, 1.0]]) for _ in range(2)]
    for each, rollout in zip((scale, other), rollouts):
        each.scale(rollout)
    np.testing.assert_array_equal(rollouts[0].reward, rollouts[1].reward)
    assert scale.state_dict() == other.state_dict() and scale.count == 6


def test_small_rewards_are_scaled_as_others_are():
    """Returns of 0 and 2e-6: a spread of 1e-6, of whose square as much again is added."""
    scale, rollout = RewardScale(1, 0.0), rollout_of([[0.0], [2e-6]] * 50)
    scale.scale(rollout)
    np.testing.assert_allclose(rollout.reward[:2, 0], [0.0, 2.0 / np.sqrt(2.0)], rtol=1e-6)
