"""The route that `rfx deploy PATH` shows: what a leg measures, when a robot fell or does not walk, and what the command
says and ends with.
"""

import numpy as np
import pytest

from rfx.commands.cli import main
from rfx.drivers import route
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.route import ROUTE, Leg, LegResult, base_velocity, cut_route, walk
from rfx.drivers.sim import SimRobot
from rfx.nn import MLP

STAND = np.zeros((1, 12), np.float32)
FOLD = np.tile(np.float32([0.0, 1.0, -1.0]), (1, 4))  # thighs and calves to their ends: the legs give way


@pytest.fixture(scope="module")
def robot() -> SimRobot:
    return SimRobot("go2")


def leg(*command: float, duration_s: float = 1.5) -> Leg:
    return Leg(name="leg", command=command, duration_s=duration_s)


def result(command, reached) -> LegResult:
    return LegResult(
        leg=leg(*command), num_steps=75, num_settled=25, reached=np.array(reached), error=np.zeros(3), num_falls=0
    )


def test_velocity_is_in_the_robots_own_frame(robot):
    robot.reset()
    robot.physics.data.qpos[3:7] = np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)  # it looks along the world's y
    robot.physics.data.qvel[:6] = 0.1, 0.5, 0.0, 0.0, 0.0, 0.3
    np.testing.assert_allclose(base_velocity(robot), [0.5, -0.1, 0.3], atol=1e-12)


def test_a_leg_measures_what_comes_after_its_first_second(robot, monkeypatch):
    speeds = iter([0.2, 0.6] * 25)
    monkeypatch.setattr(route, "base_velocity", lambda robot: np.array([next(speeds), 0.0, 0.1]))
    (found,) = walk(robot, lambda observation: STAND, [leg(0.5, 0.0, 0.0, duration_s=2.0)])
    assert found.num_steps == 100 and found.num_settled == 50 and found.num_falls == 0
    np.testing.assert_allclose(found.reached, [0.4, 0.0, 0.1])
    np.testing.assert_allclose(found.error, [0.2, 0.0, 0.1], atol=1e-7)


def test_a_policy_sees_the_command_of_its_leg(robot):
    seen = []

    def policy(observation):
        seen.append(observation["state"][0, 30:33].copy())
        return STAND

    list(walk(robot, policy, [leg(0.5, 0.0, 0.0, duration_s=0.04), leg(0.0, 0.0, -0.5, duration_s=0.02)]))
    np.testing.assert_allclose(seen, [[0.5, 0, 0], [0.5, 0, 0], [0, 0, -0.5]])


def test_a_robot_that_falls_is_put_on_its_feet_and_its_policy_forgets(robot):
    class Folding:
        resets = 0

        def reset(self):
            self.resets += 1

        def __call__(self, observation):
            return FOLD

    policy = Folding()
    (found,) = walk(robot, policy, [leg(0.0, 0.0, 0.0, duration_s=2.0)])
    assert found.num_falls >= 1 and policy.resets == found.num_falls + 1


@pytest.mark.parametrize(
    "command, reached, walks",
    [
        ((0.6, 0.0, 0.0), (0.31, 0.0, 0.0), True),
        ((0.6, 0.0, 0.0), (0.29, 0.0, 0.0), False),
        ((0.0, 0.0, 0.6), (0.3, 0.0, -0.6), False),  # the other way round
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), True),  # nothing asked for
        ((0.6, 0.0, 0.0), (np.nan, np.nan, np.nan), True),  # too short to tell
    ],
)
def test_who_walks(command, reached, walks):
    assert result(command, reached).is_walk == walks


def test_a_route_is_cut_or_walked_again():
    assert [round(leg.duration_s, 9) for leg in cut_route(ROUTE, 5.0)] == [4.0, 1.0]
    longer = list(cut_route(ROUTE, 17.0))
    assert [leg.name for leg in longer] == ["forward", "turn", "sideways", "stand", "forward"]
    assert longer[-1].duration_s == pytest.approx(2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A policy that hardly moves."""
    path = tmp_path_factory.mktemp("route") / "policy"
    return str(MLP(48, 12, [8], rng=np.random.default_rng(0)).save(path, robot_config=GO2_CONFIG))


def test_deploy_says_every_leg_and_ends_with_an_error_for_a_robot_that_does_not_walk(folder, capsys):
    assert main(["deploy", folder, "--duration", "7"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["forward", "turn"] and "350 steps" in lines[3]
    assert f"rfx play policy={folder}" in out and len(err.splitlines()) == 1


def test_deploy_ends_well_for_a_robot_that_does(folder, capsys, monkeypatch):
    monkeypatch.setattr(route, "base_velocity", lambda robot: robot.state.velocity_command[0].astype(float))
    monkeypatch.setattr(route, "DOWN_HEIGHT", 0.0)
    assert main(["deploy", folder]) == 0
    out, err = capsys.readouterr()
    assert "750 steps, 0 falls; mean errors 0.000 m/s forward, 0.000 m/s sideways, 0.000 rad/s" in out and err == ""
