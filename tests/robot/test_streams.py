"""Random numbers that belong to rows: distributed as they say, independent, and the same however rows are split;
environments likewise.
"""

import numpy as np
import pytest

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx.random.streams import Streams

NUM, DRAWS = 2000, 100
DRAW = {
    "random": lambda rng, n: rng.random((n, 3)),
    "random32": lambda rng, n: rng.random((n, 5), np.float32),
    "uniform": lambda rng, n: rng.uniform(-2.0, 3.0, n),
    "integers": lambda rng, n: rng.integers(7, n),
    "normal": lambda rng, n: rng.standard_normal((n, 12)),
    "gumbel": lambda rng, n: rng.gumbel((n, 3)),
}
# Mean and variance by hand; a Gumbel's are Euler's constant and pi^2 / 6.
MOMENTS = {
    "random": (0.5, 1 / 12),
    "random32": (0.5, 1 / 12),
    "uniform": (0.5, 25 / 12),
    "integers": (3.0, 4.0),
    "normal": (0.0, 1.0),
    "gumbel": (0.57721566, np.pi**2 / 6),
}


def splitmix(key: int, increment: int, count: int) -> int:
    """The published hash in whole numbers of Python's."""
    z = (key + count * increment) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_the_hash_is_splitmix64():
    """Its first outputs of state 0, as the reference implementation by Vigna prints them."""
    golden = 0x9E3779B97F4A7C15
    assert [splitmix(0, golden, k) for k in (1, 2, 3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    rng = Streams(3, 5)
    key, increment = (rng.arrays()[name].tolist() for name in ("key", "increment"))
    drawn = rng.random((3, 4))
    assert drawn.tolist() == [
        [(splitmix(key[i], increment[i], k) >> 11) / 2**53 for k in (1, 2, 3, 4)] for i in range(3)
    ]


@pytest.mark.parametrize("name", DRAW)
def test_draws_are_distributed_as_they_say_in_a_row_and_across_rows(name):
    """Within 4.5 standard errors: of the mean, of the variance, and of neighbours' covariances, in time, between rows
    and between seeds.
    """
    rng, (mean, variance) = Streams(NUM, 1), MOMENTS[name]
    values = np.stack([DRAW[name](rng, NUM).reshape(NUM, -1) for _ in range(DRAWS)])  # (DRAWS, NUM, width)
    z = (values - mean) / np.sqrt(variance)
    error = 4.5 / np.sqrt(z.size)
    assert abs(z.mean()) < error and abs((z**2).mean() - 1.0) < error * np.sqrt((z**4).mean() - 1.0)
    for one, other in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[:, 64:], z[:, :-64])):
        assert abs((one * other).mean()) < 4.5 / np.sqrt(one.size)
    if z.shape[2] > 1:
        assert abs((z[:, :, 1:] * z[:, :, :-1]).mean()) < 4.5 / np.sqrt(z[:, :, 1:].size)
    assert np.abs(z.mean(axis=(0, 2))).max() < 5.5 / np.sqrt(DRAWS * z.shape[2])  # no row is off
    other = Streams(NUM, 1, purpose=1)
    w = np.stack([DRAW[name](other, NUM).reshape(NUM, -1) for _ in range(DRAWS)])
    assert abs((z * (w - mean) / np.sqrt(variance)).mean()) < error


def test_uniform_fills_its_interval_evenly_and_normal_has_its_tails():
    """Counts in 64 equal cells, chi-squared with 63 degrees of freedom: below 122 in all but 1 of 100,000; and Gauss's
    error function.
    """
    counts = np.bincount((Streams(NUM, 2).random((NUM, 200), np.float32) * 64).astype(int).ravel(), minlength=64)
    expected = NUM * 200 / 64
    assert ((counts - expected) ** 2 / expected).sum() < 122
    normal = Streams(NUM, 2).standard_normal((NUM, 200))
    for limit, share in ((1.0, 0.158655), (2.0, 0.0227501), (3.0, 0.0013499)):
        for tail in (normal > limit, normal < -limit):
            assert abs(tail.mean() - share) < 4.5 * np.sqrt(share / normal.size)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("sizes", [(8, 8), (1, 15), (3, 5, 8)], ids=str)
def test_rows_draw_the_same_however_they_are_split(name, sizes):
    whole, begin = Streams(16, 9), 0
    expected = [DRAW[name](whole, 16) for _ in range(3)]
    for size in sizes:
        part = Streams(size, 9 + begin)
        for values in expected:
            assert DRAW[name](part, size).tobytes() == values[begin : begin + size].tobytes()
        begin += size


def test_a_row_does_not_notice_what_others_draw_and_goes_on_from_its_arrays():
    calm, busy = Streams(4, 3), Streams(4, 3)
    busy.of(np.array([0, 2])).random((2, 7))
    np.testing.assert_array_equal(calm.random(4)[[1, 3]], busy.random(4)[[1, 3]])
    resumed = Streams(4)
    resumed.load_state_dict(busy.state_dict())
    np.testing.assert_array_equal(resumed.random((4, 5)), busy.random((4, 5)))
    with pytest.raises(ValueError, match=r"got a draw of shape \(3,\); expected 4 rows"):
        busy.random(3)
    assert not np.array_equal(Streams(4).random(4), Streams(4).random(4))


def walk(env: LeggedEnv, actions: np.ndarray) -> list[dict]:
    out = []
    for action in actions:
        observation, *rest, _ = env.step(action)
        out.append(observation | dict(zip(("reward", "terminated", "truncated"), rest)))
    return out


@pytest.mark.parametrize("task, critic", [("go2", ("observation", "base_height")), ("go2_rough", ())])
def test_sixteen_robots_are_eight_and_five_and_three_to_the_bit(task, critic):
    """Observations, rewards, ends, and the state they end in; with everything drawn, and several episodes each; and the
    metrics of all.
    """
    config = EnvConfig.load(
        task,
        num_envs=16,
        episode_length_s=0.6,
        command_interval_s=(0.1, 0.3),
        push_interval_s=(0.1, 0.2),
        randomize=True,
    )
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 16, 12)).astype(np.float32)
    whole = LeggedEnv(config=config, task=task, critic_terms=critic)
    first = whole.reset(seed=4)[0]
    expected, parts = walk(whole, actions), []
    assert sum(step["truncated"].sum() for step in expected) > 16
    for rows in (range(8), range(8, 13), range(13, 16)):
        part = LeggedEnv(config=config, task=task, critic_terms=critic, rows=rows)
        assert part.num_envs == len(rows)
        begun = part.reset(seed=4 + rows.start)[0]
        cut = slice(rows.start, rows.stop)
        for mine, theirs in zip((begun, *walk(part, actions[:, cut])), (first, *expected)):
            assert [name for name in theirs if mine[name].tobytes() != theirs[name][cut].tobytes()] == []
        parts.append(part)
    state = whole.state_dict()
    assert all(len(array) == 16 for array in state.values())
    states = [part.state_dict() for part in parts]
    assert [
        name for name in state if np.concatenate([s[name] for s in states]).tobytes() != state[name].tobytes()
    ] == []
    measured = [part.measured() for part in parts]
    together = {name: np.concatenate([part[name] for part in measured]) for name in measured[0]}
    assert whole.summarize(together) == whole.metrics()


def test_a_view_notices_what_its_rows_drew_elsewhere_and_draws_as_all_of_them_do():
    """Few rows are hashed ahead: also where the streams draw between two draws of a view, and where a draw is longer
    than that.
    """
    whole, used = Streams(6, 11), Streams(6, 11)
    rows = np.array([4, 1])
    view = used.of(rows)
    for draw, size in (("random", (3,)), ("standard_normal", (5,)), ("random", (200,)), ("random", ())):
        expected = getattr(whole, draw)((6, *size))
        np.testing.assert_array_equal(getattr(view, draw)((2, *size)), expected[rows])
        np.testing.assert_array_equal(
            getattr(used.of(np.array([0, 2, 3, 5])), draw)((4, *size)), expected[[0, 2, 3, 5]]
        )
        np.testing.assert_array_equal(whole.random(6), used.random(6))
    np.testing.assert_array_equal(whole.state_dict()["count"], used.state_dict()["count"])
