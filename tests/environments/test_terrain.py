"""Terrain: heights as the task says, found again exactly; levels that follow how far robots walk; flat ground as it
ever was.
"""

import dataclasses

import gymnasium
import mujoco
import numpy as np
import pytest

from envs.legged import terrain_kinds
from envs.legged.config import CurriculumConfig, EnvConfig, TerrainConfig
from envs.legged.curriculum import Curriculum
from envs.legged.env import LeggedEnv
from envs.legged.state import SimState
from envs.legged.terrain import Terrain
from envs.legged.terrain_kinds import Tile
from envs.settings.configs import compose
from rfx import GO2_CONFIG
from rfx.drivers.mjcf import load_model
from rfx.drivers.sim import SimRobot
from rfx.random.streams import Streams
from rfx.robot.height_field import HeightField
from rfx.robot.state import FAILED
from train.commands.play import ground_of
from train.judge.crossings import Crossings, crossing_task, measure_crossings
from train.judge.play import Step

ROUGH = EnvConfig.load("go2_rough")
KINDS = compose("terrain", "rough")["env"]["terrain"]["kinds"]  # one of each, as everybody is judged
SMALL = TerrainConfig(kinds=KINDS, num_levels=3, tile_m=4.0, cell_m=0.1)


def small_task(num: int, **changes) -> EnvConfig:
    return dataclasses.replace(
        ROUGH, **{"num_envs": num, "terrain": SMALL, "random_start_age": False, "randomize": False, **changes}
    )


def tile(difficulty: float, size_m: float = 8.0, cell_m: float = 0.05) -> Tile:
    line = np.linspace(-size_m / 2, size_m / 2, round(size_m / cell_m) + 1)
    y, x = np.meshgrid(line, line, indexing="ij")
    return Tile(x=x, y=y, size_m=size_m, difficulty=difficulty, rng=np.random.default_rng(3))


@pytest.mark.parametrize("difficulty", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_tile_has_a_level_platform_and_a_level_edge_at_height_zero(kind, difficulty):
    one = tile(difficulty)
    heights = getattr(terrain_kinds, kind)(one)
    far = np.maximum(np.abs(one.x), np.abs(one.y))
    assert np.ptp(heights[far < 0.6]) == 0.0
    np.testing.assert_allclose(heights[far > 3.701], 0.0, atol=1e-12)


def test_heights_are_within_what_the_level_says():
    reach = 4.0 - 0.3 - 0.6  # m of slope or stairs between platform and edge
    for difficulty in (0.0, 0.5, 1.0):
        angle, bump, step = 2 + 20 * difficulty, 0.01 + 0.07 * difficulty, 0.02 + 0.13 * difficulty
        one = tile(difficulty)
        assert terrain_kinds.slope_down(one).max() == pytest.approx(reach * np.tan(np.radians(angle)))
        assert terrain_kinds.slope_up(one).min() == pytest.approx(-reach * np.tan(np.radians(angle)))
        assert 0.8 * bump < np.abs(terrain_kinds.rough(one)).max() <= bump
        rises = np.unique(np.round(np.abs(np.diff(terrain_kinds.stairs_down(one)[80])), 9))
        np.testing.assert_allclose(rises, [0.0, step], atol=1e-9)  # along a line through the middle
        treads = np.diff(np.flatnonzero(np.diff(terrain_kinds.stairs_up(one)[80, 80:])))
        assert {5, 6, 7, 8} >= set(treads.tolist()) and len(treads) >= 7  # cells of 5 cm: 0.28 to 0.36 m
        trenches = terrain_kinds.gaps(one)
        np.testing.assert_allclose(np.unique(trenches), [-(0.03 + 0.22 * difficulty), 0.0])
        along = np.flatnonzero(np.diff(np.concatenate(([0], (trenches[80, 80:] < 0).astype(int), [0]))))
        widths = 0.05 * (along[1::2] - along[::2])
        assert len(widths) >= 2 and (np.abs(widths - (0.1 + 0.25 * difficulty)) <= 0.0501).all()


def test_the_height_below_a_point_is_that_of_the_model_that_is_simulated():
    terrain = Terrain(SMALL)
    model = load_model(GO2_CONFIG, ground=terrain.ground)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    half, rng = terrain.half_size_m, np.random.default_rng(0)
    points = rng.uniform(-half - 0.9, half + 0.9, (1000, 2))
    on_lines = np.round(points[:100], 1)
    points = np.concatenate((points, on_lines + (0.0, 0.05), on_lines + (0.05, 0.05)))
    group = np.array([1, 0, 0, 0, 0, 0], np.uint8)
    down, geom = np.array([0, 0, -1.0]), np.zeros(1, np.int32)
    rays = [10.0 - mujoco.mj_ray(model, data, np.append(point, 10.0), down, group, 1, -1, geom) for point in points]
    np.testing.assert_allclose(terrain.ground.height_at(points[:, 0], points[:, 1]), rays, atol=1e-6)


def test_a_height_field_by_hand():
    field = HeightField(heights=np.array([[0, 1, 2], [4, 3, 6]], np.float32), cell_m=0.5, corner_m=(1.0, 2.0))
    x, y = (
        np.array([1.0, 1.5, 1.25, 1.375, 1.125, 2.0, 9.0, -9.0]),
        np.array([2.0, 2.5, 2.25, 2.125, 2.375, 2.25, 9.0, -9.0]),
    )
    # On the diagonal of the first cell (0 to 3); below it 0, 1, 3 at (3/4, 1/4); above it 0, 4, 3 at (1/4, 3/4); beyond
    # the edges.
    np.testing.assert_allclose(field.height_at(x, y), [0, 3, 1.5, 0.75 * 1 + 0.25 * 2, 0.75 * 4 + 0.25 * -1, 4, 6, 0])
    part = field.crop((1.6, 2.1), (1.9, 2.4))
    assert part.corner_m == (1.5, 2.0) and part.heights.tolist() == [[1, 2], [3, 6]]


def test_the_same_seed_is_the_same_ground_and_evaluation_has_another():
    first, second = Terrain(SMALL), Terrain(dataclasses.replace(SMALL))
    np.testing.assert_array_equal(first.ground.heights, second.ground.heights)
    other = Terrain(SMALL.for_evaluation(7))
    assert (other.ground.heights != first.ground.heights).any() and other.config.curriculum is None


def test_a_robot_stands_on_every_tile_and_its_heights_are_above_the_ground():
    env = LeggedEnv(task="go2", config=small_task(18, resets={"yaw": {}}), threads=1)
    env.reset(seed=0)
    assert set(zip(env.curriculum.level, env.curriculum.kind)) == {
        (level, kind) for level in range(3) for kind in range(6)
    }
    origin = env.curriculum.origin(np.arange(18))
    np.testing.assert_allclose(env.simulation.base_position_w[:, :2], origin[:, :2])
    for _ in range(100):
        _, _, terminated, truncated, info = env.step(np.zeros((18, 12)))
        assert not (terminated | truncated).any() and not info
    state = env.state
    assert state.foot_contact.all() and not state.base_contact.any()
    assert (np.abs(state.foot_height - 0.02) < 0.004).all()  # a foot is a ball of 22 mm
    assert (
        np.abs(state.base_height - (env.simulation.base_position_w[:, 2] - origin[:, 2] + 0.03)) < 1e-5
    ).all()  # dropped from 3 cm
    assert ((0.2 < state.base_height) & (state.base_height < 0.3)).all()


@pytest.mark.parametrize("num, size, most", [(64, 0.3, 0), pytest.param(256, 1.0, 10, marks=pytest.mark.long)])
def test_a_foot_does_not_stay_in_the_ground(num, size, most):
    """Once its middle is below the surface, a height field holds it.

    With MuJoCo's own softness the wildest motion caught 152 of 256 robots.
    """
    env = LeggedEnv(num, task="go2_rough")
    env.reset(seed=3)
    assert (env.state.foot_height > 0.0).all()  # of balls of 22 mm
    heights, rng = [], np.random.default_rng(5)
    for _ in range(100):
        env.step(size * rng.uniform(-1.0, 1.0, (num, 12)))
        heights.append(env.state.foot_height.copy())
    assert (np.max(heights[-25:], axis=0) < 0.0).any(axis=1).sum() <= most
    assert size > 0.5 or np.min(heights) > 0.01


def test_leaving_the_tiles_truncates():
    env = LeggedEnv(task="go2", config=small_task(18), threads=1)
    env.reset(seed=0)
    qpos = env.simulation.batch.bind("qpos")
    qpos[3, 0], qpos[5, :2] = env.curriculum.terrain.half_size_m[0] + 0.1, (0.0, 0.0)
    qpos[3, 2], qpos[5, 2] = 0.29, 0.6
    _, _, terminated, truncated, info = env.step(np.zeros((18, 12)))
    assert truncated.nonzero()[0].tolist() == [3] and not terminated.any() and not info[FAILED].any()
    assert not env.curriculum.terrain.left(env.simulation.base_position_w).any()  # it begins anew on its tile


@pytest.mark.parametrize("curriculum", [CurriculumConfig(start_level=0), None])
def test_with_a_curriculum_an_episode_ends_at_the_edge_of_the_robots_own_tile(curriculum):
    env = LeggedEnv(
        task="go2", config=small_task(18, terrain=dataclasses.replace(SMALL, curriculum=curriculum)), threads=1
    )
    env.reset(seed=0)
    qpos = env.simulation.batch.bind("qpos")
    robots, kind = (0, 1), env.curriculum.kind.copy()
    qpos[robots, :2] = env.curriculum.origin(np.array(robots))[:, :2] + [
        [0.0, 2.1],
        [0.0, 1.9],
    ]  # towards level 1; half a tile is 2 m
    env.curriculum.commanded_m[...] = env.curriculum.walked_m[...] = 3.5
    _, _, terminated, truncated, _ = env.step(np.zeros((18, 12)))
    assert truncated.nonzero()[0].tolist() == ([0] if curriculum else []) and not terminated.any()
    if curriculum:
        assert env.curriculum.level[:2].tolist() == [1, 0] and (env.curriculum.kind == kind).all()


def test_a_robot_that_is_thrown_over_has_fallen():
    env = LeggedEnv(task="go2", config=small_task(18), threads=1)
    env.reset(seed=0)
    falls = np.zeros(18, int)
    for _ in range(150):
        falls += env.step(np.tile(np.array([-1, 1, 1, -1, -1, -1] * 2, np.float32), (18, 1)))[2]
    assert (falls > 0).all()


CASES = (  # level before, commanded, walked, fell, level after: 0.75 and 3 m lead up, a fall or less than 0.5 down
    (1, 8.0, 6.0, False, 2),
    (1, 8.0, 5.9, False, 1),
    (1, 8.0, 4.0, False, 1),
    (1, 8.0, 3.9, False, 0),
    (1, 8.0, 8.0, True, 0),
    (0, 8.0, 0.0, False, 0),
    (0, 8.0, 8.0, True, 0),
    (1, 3.2, 3.0, False, 2),
    (1, 3.2, 2.9, False, 1),
    (1, 0.0, 0.0, False, 1),
    (1, 4.0, -2.0, False, 0),
)


def test_levels_move_as_the_rule_says():
    curriculum = Curriculum(Terrain(SMALL), len(CASES) + 4, CurriculumConfig())
    before, commanded, walked, fell, after = map(np.array, zip(*CASES))
    curriculum.level[: len(CASES)], curriculum.level[len(CASES) :] = before, 2
    curriculum.commanded_m[...], curriculum.walked_m[...] = 8.0, 8.0  # the last four pass the top
    curriculum.commanded_m[: len(CASES)], curriculum.walked_m[: len(CASES)] = commanded, walked
    curriculum.move(np.arange(len(CASES)), fell, Streams(len(CASES) + 4, 0))
    assert (
        curriculum.level.tolist() == [*after, 2, 2, 2, 2]
        and curriculum.commanded_m.tolist() == [0.0] * len(CASES) + [8.0] * 4
    )
    past_the_top = []
    for seed in range(20):
        curriculum.level[-4:], curriculum.commanded_m[-4:], curriculum.walked_m[-4:] = 2, 8.0, 8.0
        curriculum.move(np.arange(len(CASES), len(CASES) + 4), np.zeros(4, bool), Streams(len(CASES) + 4, 100 * seed))
        past_the_top += curriculum.level[-4:].tolist()
    assert set(past_the_top) == {0, 1, 2}


def test_distance_counts_along_the_command():
    curriculum = Curriculum(Terrain(SMALL), 4, CurriculumConfig())
    state = SimState.zeros(GO2_CONFIG, 4)
    state.robot.velocity_command[:, :2] = (0.6, 0.8), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.0)
    state.base_linear_velocity_b[:] = (0.6, 0.8, 3.0), (0.0, 1.0, 0.0), (0.2, 0.0, 0.0), (1.0, 0.0, 0.0)
    for _ in range(50):
        curriculum.measure(state, 0.02)
    np.testing.assert_allclose(curriculum.commanded_m, [1.0, 0.5, 0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(curriculum.walked_m, [1.0, 0.0, -0.2, 0.0], rtol=1e-6)


def test_who_stands_half_the_time_and_then_runs_twice_as_fast_has_followed_half():
    curriculum = Curriculum(Terrain(SMALL), 2, CurriculumConfig())
    state = SimState.zeros(GO2_CONFIG, 2)
    state.robot.velocity_command[:, 0] = 0.5
    curriculum.level[...] = 1
    for second in range(20):
        state.base_linear_velocity_b[0, 0] = 0.5
        state.base_linear_velocity_b[1, 0] = 1.0 if second >= 10 else 0.0
        for _ in range(50):
            curriculum.measure(state, 0.02)
    np.testing.assert_allclose(curriculum.walked_m, [10.0, 5.0], rtol=1e-6)
    curriculum.move(np.arange(2), np.zeros(2, bool), Streams(2, 0))
    assert curriculum.level.tolist() == [2, 1]


def test_a_first_episode_of_random_age_leads_no_level_down():
    config = small_task(
        12, random_start_age=True, terrain=dataclasses.replace(SMALL, curriculum=CurriculumConfig(start_level=2))
    )
    env = LeggedEnv(task="go2", config=config, threads=1)
    env.reset(seed=0)
    env.curriculum.level[...] = 2
    on_its_back = [0.0, 1.0, 0.0, 0.0]
    for levels in (2, 1):  # the first fall after a random age, and one after a whole episode
        env.simulation.batch.qpos[:, 3:7] = on_its_back
        terminated = env.step(np.zeros((12, 12), np.float32))[2]
        assert terminated.all() and env.curriculum.level.tolist() == [levels] * 12
    env.curriculum.cut_short[:6] = True
    env.curriculum.level[...], env.curriculum.walked_m[...], env.curriculum.commanded_m[...] = 0, 8.0, 8.0
    env.curriculum.move(np.arange(12), np.zeros(12, bool), np.random.default_rng(0))
    assert env.curriculum.level.tolist() == [1] * 12 and not env.curriculum.cut_short.any()  # who walked may go up
    plain = LeggedEnv(task="go2", config=dataclasses.replace(config, random_start_age=False), threads=1)
    plain.reset(seed=0)
    assert not plain.curriculum.cut_short.any()


def test_an_environment_goes_on_from_its_state_to_the_bit_levels_too():
    config = small_task(
        12,
        episode_length_s=0.3,
        random_start_age=True,
        terrain=dataclasses.replace(
            SMALL, curriculum=CurriculumConfig(start_level=2, up=0.0, down=0.0, distance_m=0.0)
        ),
    )
    actions = np.random.default_rng(1).uniform(-1, 1, (40, 12, 12)).astype(np.float32)
    env, other = LeggedEnv(task="go2", config=config, threads=1), LeggedEnv(task="go2", config=config, threads=2)
    env.reset(seed=4)
    other.reset(seed=5)
    for action in actions[:20]:
        env.step(action)
    other.load_state_dict(env.state_dict())
    levels = env.curriculum.level.copy()
    for action in actions[20:]:
        first, second = env.step(action), other.step(action)
        np.testing.assert_array_equal(first[0]["state"], second[0]["state"])
        np.testing.assert_array_equal(first[1], second[1])
        np.testing.assert_array_equal(env.curriculum.level, other.curriculum.level)
    assert (env.curriculum.level != levels).any() and env.metrics()["terrain/level"] == env.curriculum.level.mean()


def test_flat_ground_is_as_it_was():
    """Recorded with NumPy's generators, and without streams, from starts that draw nothing; heights are MuJoCo's own
    numbers, to the bit.
    """
    env = LeggedEnv(4, task="go2", threads=1, randomize=False, timestep_s=0.005, resets={})
    assert env.curriculum is None and env.simulation.ground is None and env.metrics() == {}
    env.reset(seed=11)
    for action in np.random.default_rng(2).uniform(-1, 1, (10, 4, 12)).astype(np.float32):
        env.step(action)
    np.testing.assert_allclose(env.state.base_height, [0.23429225, 0.2465024, 0.28189668, 0.23447095], rtol=1e-4)
    np.testing.assert_allclose(env.state.foot_height[0], [0.07484996, 0.02007056, 0.01003367, 0.02454278], atol=1e-5)
    np.testing.assert_array_equal(env.state.base_height, env.simulation.base_position_w[:, 2].astype(np.float32))
    model = env.simulation.model
    places = [model.sensor(f"{foot}_foot_position").adr[0] + 2 for foot in GO2_CONFIG.foot_names]
    np.testing.assert_array_equal(
        env.state.foot_height, env.simulation.batch.bind("sensordata")[:, places].astype(np.float32)
    )


def test_a_robot_to_be_played_with_starts_on_level_ground_among_the_tiles():
    level = HeightField(heights=np.zeros((481, 481), np.float32), cell_m=0.05, corner_m=(-12.0, -12.0))
    robot, flat = SimRobot(ground=ground_of("go2_rough")), SimRobot(ground=level)
    for _ in range(50):
        robot.act(np.zeros((1, 12)))
        flat.act(np.zeros((1, 12)))
    np.testing.assert_allclose(robot.physics.base_position_w, flat.physics.base_position_w, atol=0.002)
    np.testing.assert_allclose(robot.state.projected_gravity_b, flat.state.projected_gravity_b, atol=0.002)
    heights = robot.physics.ground.heights
    assert heights.shape == (481, 481) and np.ptp(heights) > 0.5  # 24 m at 5 cm
    assert ground_of(None) is None and ground_of("go2") is None


def test_gymnasium_makes_the_rough_task():
    envs = gymnasium.make_vec(
        "rfx/Go2Rough-v0", num_envs=2, vectorization_mode="vector_entry_point", terrain=dataclasses.asdict(SMALL)
    )
    assert envs.reset(seed=0)[0]["state"].shape == (2, 64) and envs.unwrapped.config.rewards["tilt"] == {"weight": -4.0}
    assert envs.unwrapped.config.commands == EnvConfig.load("go2").commands


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": {"slops": {}}}, "unknown term 'slops' among terrain kinds"),
        (
            {"kinds": {"rough": {"hight_m": [0.0, 0.1]}}},
            "term 'rough' has no parameter 'hight_m': did you mean 'height_m'",
        ),
        (
            {"kinds": {"rough": {"height_m": "high"}}},
            "env.terrain.kinds.rough.height_m is 'high': it must be a number above 0, or two",
        ),
        (
            {"kinds": {"rough": {"height_m": [0.1]}}},
            r"env.terrain.kinds.rough.height_m is \[0.1\]: it must be two numbers",
        ),
        ({"kinds": {}}, "env.terrain.kinds is empty"),
        ({"num_levels": 0}, "env.terrain.num_levels is 0: it must be a whole number of at least 1"),
        ({"cell_m": 0.3}, "env.terrain has tile_m 4.0, cell_m 0.3"),
        ({"levels": 3}, "unknown key 'env.terrain.levels': did you mean 'num_levels'"),
        ({"curriculum": {"upp": 1.0}}, "unknown key 'env.terrain.curriculum.upp': did you mean 'up'"),
        ({"curriculum": {"up": 0.2, "down": 0.5}}, "env.terrain.curriculum has start_level 2, down 0.5, up 0.2"),
    ],
)
def test_a_bad_terrain_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Terrain(TerrainConfig.from_dict({"kinds": {"rough": {}}, "tile_m": 4.0, "cell_m": 0.1, **changes}))
    assert "\n" not in str(error.value)


def test_levels_passed_ends_at_the_first_that_is_not():
    def passed(*falls: tuple[float, float], crossed: float = 1.0) -> int:
        cells = np.array(falls)
        return Crossings(
            kinds=("a", "b"), falls=cells, crossed=np.full_like(cells, crossed), error=cells, vx=0.6, robots_per_tile=8
        ).levels_passed

    assert passed((0.2, 0.0), (0.0, 0.0), (0.3, 0.0), (0.0, 0.0)) == 2
    assert passed((0.2, 0.1), (0.0, 0.0)) == 0 and passed((0.0, 0.0), (0.1, 0.1)) == 2
    assert passed((0.0, 0.0), crossed=0.75) == 0 and passed((0.0, 0.0), crossed=0.8) == 1


def test_crossings_are_of_the_robots_that_reach_the_edge_ahead_before_they_fall():
    config = small_task(18, **crossing_task(ROUGH, 0, 1) | {"terrain": SMALL, "num_envs": 18, "resets": {}})
    env = LeggedEnv(task="go2", config=config, threads=1)
    env.reset(seed=0)
    done, qpos = np.zeros((5, 18), bool), env.simulation.batch.bind("qpos")

    def play():
        yield Step(terminated=done[0], truncated=done[0], failed=done[0])
        done[1, [0, 1]] = True  # two fall
        yield Step(terminated=done[1], truncated=done[0], failed=done[0])
        qpos[[1, 2, 3], 0] += 1.71  # ahead, to the edge of a tile of 4 m
        qpos[4, 1] += 1.71  # to the left
        qpos[5, 0] += 1.69
        yield Step(terminated=done[0], truncated=done[0], failed=done[0])
        done[3, [2, 3, 4]] = True  # later: no matter
        yield Step(terminated=done[3], truncated=done[0], failed=done[0])

    result = measure_crossings(env, play())
    assert result.falls.ravel().tolist() == [1.0, 1.0] + [0.0] * 16
    assert result.crossed.ravel().tolist() == [0.0, 0.0, 1.0, 1.0] + [0.0] * 14
    assert result.vx == pytest.approx(0.6) and result.robots_per_tile == 1
