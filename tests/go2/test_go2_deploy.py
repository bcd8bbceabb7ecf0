"""`rfx deploy --robot go2` as somebody at the remote uses it: states, buttons, and how gently it comes down.

In virtual time.
"""

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs the extra go2")

from virtual_go2 import VirtualGo2, still  # noqa: E402

from rfx.drivers.go2.operator.deployment import Deployment  # noqa: E402
from rfx.drivers.go2.rules.log import Recording, run_path  # noqa: E402
from rfx.drivers.go2.rules.safety import SafetyLimits  # noqa: E402
from rfx.drivers.keyboard import BACK, FORWARD  # noqa: E402

DROP_M_S = 0.3
STANDING_M, LYING_M = 0.2, 0.13


def trot(observation):
    """A policy that lifts diagonal pairs of legs in turn, as its gait clock says: it trots on the spot."""
    sine, action = observation["state"][0, 45], np.zeros((1, 12), np.float32)
    for leg, sign in enumerate((1.0, -1.0, -1.0, 1.0)):
        action[0, 3 * leg + 1 : 3 * leg + 3] = 0.2 * sign * sine, -0.4 * sign * sine
    return action


class Lines:
    """A console that keeps what is said, and the newest status."""

    def __init__(self):
        self.lines, self.status = [], ""

    def say(self, line):
        self.lines.append(line)

    def show(self, status):
        self.status = " | ".join(status)

    def close(self):
        pass


class Keys:
    """Somebody at a terminal: velocity keys that were pressed, and Enter and Backspace."""

    def __init__(self):
        self.velocity, self.pressed = (0.0, 0.0, 0.0), []

    def read(self):
        return self.velocity

    def moves(self):
        pressed, self.pressed = self.pressed, []
        return pressed


class Deployed:
    """A deployment in a thread of its own, who watches it, and who leads it."""

    def __init__(self, bench, policy=trot, walk_s=None, restore=None, velocity_from="remote", **options):
        self.bench, self.console, self.error = bench, Lines(), None
        self.robot = bench.go2(velocity_from=velocity_from, restore=restore)
        self.deployment = Deployment(self.robot, policy, console=self.console, clock=bench.clock, **options)
        self.rows = []  # (T, 3): s, height m, tilt rad
        self.thread = bench.clock.thread(lambda: self._run(walk_s), "deployment")
        self.thread.start()
        bench.clock.thread(self._watch, "watcher").start()

    def _run(self, walk_s):
        try:
            with self.robot:
                self.deployment.run(walk_s)
        except BaseException as error:
            if not isinstance(error, (KeyboardInterrupt, RuntimeError, ConnectionError, ArithmeticError)):
                raise
            self.error = error

    def _watch(self):
        while True:
            pose = self.bench.ask("pose")
            w, x, y, z = pose["quaternion"]
            self.rows.append(
                (self.bench.clock.now(), pose["position"][2], np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1)))
            )
            self.bench.clock.sleep(0.01)

    def wait_for(self, line, count=1):
        self.bench.clock.wait_for(lambda: sum(said.startswith(line) for said in self.console.lines) >= count, 30.0)

    def tap(self, *buttons):
        """Press for 0.15 s and let go."""
        self.bench.ask(f"press {' '.join(buttons)}")
        self.bench.clock.sleep(0.15)
        self.bench.ask("press")

    def lead(self, until):
        """From Passive to Stand, or to Walk."""
        self.wait_for("Passive")
        self.tap("Start")
        self.wait_for("Stand")
        if until == "Walk":
            self.tap("A")
            self.wait_for("Walk")

    def ctrl_c(self):
        self.bench.clock.interrupt(self.thread, KeyboardInterrupt())

    def finish(self):
        """Wait for its end."""
        self.bench.clock.wait_for(lambda: not self.thread.is_alive(), 30.0)

    @property
    def height(self):
        return self.rows[-1][1]

    def check_gentle(self, since_s):
        """No drop faster than DROP_M_S over any 50 ms, and never far from level."""
        rows = np.array([row for row in self.rows if row[0] >= since_s])
        assert ((rows[5:, 1] - rows[:-5, 1]) / 0.05).min() > -DROP_M_S and rows[:, 2].max() < 0.35


@pytest.fixture
def bench(tmp_path):
    with VirtualGo2(tmp_path, sport=True, limits=SafetyLimits(damping_s=0.3)) as bench:
        yield bench


def test_the_remote_leads(bench):
    """It does nothing unasked; Start, A, B and Start are Stand, Walk, Stand and lying down; then Ctrl-C."""
    deployed = Deployed(bench, restore="")
    deployed.wait_for("Passive")
    bench.clock.sleep(1.0)
    deployed.tap("A")
    deployed.tap("L2", "Start")  # means something else
    bench.clock.sleep(0.5)
    assert deployed.height < LYING_M, "it stands up without being asked to"
    deployed.tap("Start")
    deployed.wait_for("Stand")
    assert deployed.height > STANDING_M
    bench.clock.sleep(1.0)
    assert "Walk" not in deployed.console.lines, "it walks off without being asked to"
    deployed.tap("A")
    deployed.wait_for("Walk")
    bench.ask("sticks ly=0.3")
    bench.clock.sleep(2.0)
    begun_s = bench.clock.now()
    deployed.tap("B")
    deployed.wait_for("Stand", count=2)
    deployed.tap("A")
    deployed.wait_for("Walk", count=2)
    bench.ask("sticks ly=0.3")
    bench.clock.sleep(1.0)
    deployed.tap("Start")
    deployed.wait_for("lying down")
    deployed.wait_for("Passive", count=2)
    assert deployed.height < LYING_M
    deployed.check_gentle(begun_s)
    deployed.ctrl_c()
    deployed.finish()
    assert isinstance(deployed.error, KeyboardInterrupt)
    assert bench.ask("pose")["mode"] == "normal" and not deployed.robot.left_without, (
        "its own controller has the motors again"
    )
    run = Recording.load(run_path(bench.folder / "log.jsonl"))
    commanded = np.array(
        [velocity[0] for velocity, phase in zip(run.arrays["velocity_command"], run.phase) if phase == "POLICY"]
    )
    assert commanded.max() > 0.2 and commanded[-1] == 0.0, "it brakes before it lies down"
    phases = [phase for phase, before in zip(run.phase, [None, *run.phase]) if phase != before]
    assert [phase for phase in phases if phase not in ("CONNECTING", "DONE")] == [
        "IDLE",
        "STANDING_UP",
        "STANDING",
        "POLICY",
        "STANDING_UP",
        "STANDING",
        "POLICY",
        "LYING_DOWN",
        "IDLE",
    ]
    assert np.abs(np.diff(run.arrays["joint_position"][:, 1][np.array(run.phase) == "POLICY"])).max() > 0.01, (
        "it really lifts its legs"
    )
    assert (run.arrays["battery"] == 80).all() and any(remote[2] & 4 for remote in run.remote)
    assert np.median(run.arrays["accelerometer"][:, 2]) == pytest.approx(9.81, abs=0.5)


@pytest.mark.parametrize("end", ["Ctrl-C", "duration"])
def test_a_planned_end_is_gentle(bench, end):
    """Ctrl-C, and a time that is up: to the default pose, down, and only then damped."""
    deployed = Deployed(
        bench, walk_s=1.5 if end == "duration" else None, velocity=lambda: (0.3, 0.0, 0.0), velocity_from="api"
    )
    deployed.lead("Walk")
    begun_s = bench.clock.now()
    if end == "Ctrl-C":
        bench.clock.sleep(1.0)
        begun_s = bench.clock.now()
        deployed.ctrl_c()
    deployed.finish()
    assert isinstance(deployed.error, KeyboardInterrupt) == (end == "Ctrl-C")
    assert deployed.height < LYING_M
    deployed.check_gentle(begun_s)
    assert deployed.robot.left_without == "normal"
    assert Recording.load(bench.folder / "log.jsonl").reason == "closed"


@pytest.mark.parametrize("state", ["Stand", "Walk"])
def test_ctrl_c_twice_damps_at_once(bench, state):
    """The second one while it lies down, or while it still brakes."""
    deployed = Deployed(bench)
    deployed.lead(state)
    deployed.ctrl_c()
    bench.clock.sleep(0.3)
    struck_s = bench.clock.now()
    deployed.ctrl_c()
    deployed.finish()
    assert isinstance(deployed.error, KeyboardInterrupt)
    assert bench.wire.damps_ms(struck_s, 0.3) <= 2.5
    phases = Recording.load(run_path(bench.folder / "log.jsonl")).phase
    assert ("LYING_DOWN" in phases) == (state == "Stand")


def test_l2_b_damps_and_it_can_stand_up_again(bench):
    """Without restarting the program; the first fault's log stays, and it remembers whom to give the motors back to."""
    deployed = Deployed(bench, restore="")
    deployed.wait_for("Passive")
    for count in (1, 2):
        deployed.tap("Start")
        deployed.wait_for("Stand", count)
        pressed_s = bench.clock.now()
        bench.ask("press L2 B")
        deployed.wait_for("the Go2 was damped: L2+B on the remote", count)
        bench.ask("press")
        deployed.wait_for("connected again", count)
        assert (
            0.0
            < bench.wire.time_s[
                next(
                    index
                    for index, damps in enumerate(bench.wire.damping)
                    if damps and bench.wire.time_s[index] > pressed_s
                )
            ]
            - pressed_s
            <= 0.005
        )
        deployed.wait_for("Passive", count + 1)
    deployed.ctrl_c()
    deployed.finish()
    assert bench.ask("pose")["mode"] == "normal"
    reasons = [Recording.load(bench.folder / name).reason for name in ("log.jsonl", "log-2.jsonl", "log-3.jsonl")]
    assert reasons == ["L2+B on the remote", "L2+B on the remote", "closed"]


def test_three_faults_without_having_stood_end_it(bench):
    """What connecting anew does not mend: here a leg that is stuck."""
    bench.ask("stick RL")
    deployed = Deployed(bench)
    for count in (1, 2, 3):
        deployed.wait_for("Passive", count)
        deployed.tap("Start")
        deployed.wait_for("the Go2 was damped: it did not stand up", count)
    deployed.finish()
    assert "it did not stand up" in str(deployed.error) and bench.sender.poll() == 0


def test_a_policy_that_fails_damps_and_is_told(bench):
    def policy(observation):
        policy.steps += 1
        if policy.steps > 100:
            raise ArithmeticError("the policy broke")
        return still(observation)

    policy.steps = 0
    deployed = Deployed(bench, policy)
    deployed.lead("Walk")
    deployed.finish()
    assert isinstance(deployed.error, ArithmeticError) and bench.wire.damping[-1]


def test_enter_leads_where_there_is_no_remote(bench):
    """On a terminal:

    Enter stands up, Enter walks, Backspace stands, Backspace lies down; and a status line tells how it is.
    """
    bench.ask("again released")
    keys = Keys()
    deployed = Deployed(bench, keyboard=keys, velocity_from="api")

    def press(key, status, velocity=(0.0, 0.0, 0.0)):
        keys.velocity, keys.pressed = velocity, [key] if key else []
        bench.clock.wait_for(lambda: status in deployed.console.status, 10.0)

    press("", "Passive | remote not seen | +0.00 +0.00 m/s")
    assert "remote not seen" in deployed.console.status and "battery 80%" in deployed.console.status
    press(FORWARD, "Stand |")
    press(FORWARD, "Walk | remote not seen | +0.30", (0.3, 0.0, 0.0))
    press("", "jitter", (0.3, 0.0, 0.0))
    press("", "Walk | remote not seen | +1.00", (1.0, 0.0, 0.0))
    press(BACK, "Stand |")
    press(BACK, "lying down |")
    press("", "Passive |")
    deployed.ctrl_c()
    deployed.finish()
    assert isinstance(deployed.error, KeyboardInterrupt)
