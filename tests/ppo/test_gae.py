"""GAE against numbers worked by hand, and against the definition as a double sum."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train.ppo.gae import gae
from train.ppo.rollout import Rollout


def make_rollout(reward, value, terminated=None, truncated=None, bootstrap=None, failed=None) -> Rollout:
    rollout = Rollout.empty(*np.shape(reward), 3, 2)
    given_arrays = {
        "reward": reward,
        "value": value,
        "terminated": terminated,
        "truncated": truncated,
        "bootstrap": bootstrap,
        "failed": failed,
    }
    for name, values in given_arrays.items():
        if values is not None:
            getattr(rollout, name)[...] = values
    return rollout


def test_returns_by_hand():
    # gamma = lambda = 0.5. Column 0 goes on (last value 4), column 1 terminates at step 1, column 2 is truncated at
    # step 1 with value 8.
    rollout = make_rollout(
        reward=[[1, 1, 1], [2, 2, 2], [3, 3, 3]],
        value=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        terminated=[[0, 0, 0], [0, 1, 0], [0, 0, 0]],
        truncated=[[0, 0, 0], [0, 0, 1], [0, 0, 0]],
        bootstrap=[[0, 0, 0], [0, 0, 8], [0, 0, 0]],
    )
    gae(rollout, np.full(3, 4, np.float32), 0.5, 0.5)
    # step 2: delta = 3 + 2 - 2 = 3, advantage 3
    # step 1: going on: 2 + 1 - 2 = 1, + 0.25 * 3 = 1.75; terminated: 2 - 2 = 0; truncated: 2 + 4 - 2 = 4
    # step 0: delta = 1 + 1 - 1 = 1, + 0.25 * (1.75, 0, 4) = 1.4375, 1, 2
    np.testing.assert_allclose(rollout.returns, [[2.4375, 2, 3], [3.75, 2, 6], [5, 5, 5]])


def test_advantage_is_normalized_over_the_batch():
    rng = np.random.default_rng(0)
    rollout = make_rollout(rng.normal(size=(8, 16)), rng.normal(size=(8, 16)))
    gae(rollout, np.zeros(16, np.float32), 0.9, 0.9)
    assert abs(rollout.advantage.mean()) < 1e-6
    assert abs(rollout.advantage.std() - 1.0) < 1e-5


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_matches_the_definition(seed, gamma, gae_lambda):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, up to and with the step in which the episode ends."""
    rng = np.random.default_rng(seed)
    T, N = 7, 3
    terminated = rng.random((T, N)) < 0.2
    truncated = (rng.random((T, N)) < 0.2) & ~terminated
    reward, value, last = rng.normal(size=(T, N)), rng.normal(size=(T, N)), rng.normal(size=N)
    bootstrap = np.where(truncated, rng.normal(size=(T, N)), 0.0)
    rollout = make_rollout(reward, value, terminated, truncated, bootstrap)
    gae(rollout, last.astype(np.float32), gamma, gae_lambda)
    for n in range(N):
        for t in range(T):
            total = 0.0
            for k in range(t, T):
                done = terminated[k, n] or truncated[k, n]
                following = bootstrap[k, n] if done else (value[k + 1, n] if k + 1 < T else last[n])
                total += (gamma * gae_lambda) ** (k - t) * (reward[k, n] + gamma * following - value[k, n])
                if done:
                    break
            assert abs(rollout.returns[t, n] - value[t, n] - total) < 1e-4


def test_failed_transitions_are_neither_learned_from_nor_passed_on():
    nan = np.nan
    reward = [[1.0, 1.0], [0.0, 2.0], [3.0, 3.0]]
    rollout = make_rollout(reward, np.ones((3, 2)), truncated=[[0, 0], [1, 0], [0, 0]], failed=[[0, 0], [1, 0], [0, 0]])
    rollout.action[1, 0] = nan
    gae(rollout, np.ones(2, np.float32), 1.0, 1.0)
    # column 0: step 0 sees only its own reward and the next value: 1 + 1
    assert rollout.returns[0, 0] == 2.0 and rollout.returns[1, 0] == 1.0
    sound = rollout.advantage[~rollout.failed]
    assert abs(sound.mean()) < 1e-6 and abs(sound.std() - 1.0) < 1e-5
    before = rollout.returns.copy()
    assert rollout.replace_failed(np.random.default_rng(0)) == 1
    assert np.isfinite(rollout.action).all() and not rollout.failed.any()
    assert rollout.returns[1, 0] in before[[0, 0, 1, 2, 2], [0, 1, 1, 0, 1]]
