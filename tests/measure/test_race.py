"""The race of learners: what the rivals are told of the environments, that their policies are kept as they are, and
what is made of curves.
"""

import json
import time
from importlib.util import find_spec
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from tiny_run import make_config

from measure.claims import read_groups
from measure.markdown import section
from measure.race import runs
from measure.race.__main__ import check_installed, first_met, summary, write
from measure.race.config import read_race
from measure.race.plot import column, median_curve
from measure.race.rival import env_seed
from measure.race.runs import Racer, racers
from measure.race.snapshots import Kept, Network, Stopwatch, kept_by_us
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.robot.mirror import Mirror
from rfx.robot.state import FAILED
from train.runs.best import Snapshot
from train.runs.checkpoint import write_checkpoint
from train.runs.resume import values_of
from train.runs.trainer import Trainer

needs_sb3 = pytest.mark.skipif(
    find_spec("stable_baselines3") is None, reason="stable-baselines3 is not installed: the extra rivals"
)
needs_rsl_rl = pytest.mark.skipif(find_spec("rsl_rl") is None, reason="rsl-rl-lib is not installed: the extra rivals")
WIDTH, PADDED = 3, 5


class Scripted(VectorEnv):
    """Four environments whose first column counts steps, with two columns of padding.

    In step 2 the first falls, the second's time is up, the third's simulation fails; the fourth goes on. What begins
    anew counts from 100.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
    max_steps = 50

    def __init__(self):
        self.num_envs, self.robot, self.actions, self.seeds, self.count = 4, SimpleNamespace(state_dim=WIDTH), [], [], 0
        self.single_observation_space = gymnasium.spaces.Dict(
            {"state": gymnasium.spaces.Box(-np.inf, np.inf, (PADDED,), np.float32)}
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.count, self.first = 0, np.zeros(4)
        return self._observation(), {}

    def _observation(self):
        state = np.full((4, PADDED), 7.0, np.float32)  # the padding too: who reads it shows it
        state[:, 0] = self.first + self.count
        return {"state": state}

    def step(self, actions):
        self.actions.append(np.array(actions))
        self.count += 1
        terminated, truncated, info = np.zeros(4, bool), np.zeros(4, bool), {}
        if self.count == 2:
            last = self._observation()["state"]
            terminated[0], truncated[1:3] = True, True
            info = {
                "final_obs": np.array([{"state": row} for row in last[:3]] + [None], object),
                FAILED: np.array([False, False, True, False]),
            }
            self.first[:3] = 100.0 - self.count
        return self._observation(), np.arange(4, dtype=np.float32), terminated, truncated, info


@needs_sb3
def test_sb3_is_told_which_episodes_ended_and_how():
    from measure.race.sb3 import BatchedEnv

    env = Scripted()
    adapted = BatchedEnv(env, 5, WIDTH)
    assert adapted.observation_space.shape == (WIDTH,) and adapted.action_space.shape == (2,)
    first = adapted.reset()
    assert first.shape == (4, WIDTH) and env.seeds == [5]
    _, reward, done, infos = adapted.step(np.zeros((4, 2)))
    assert not done.any() and infos == [{}] * 4 and reward.tolist() == [0.0, 1.0, 2.0, 3.0]
    observation, _, done, infos = adapted.step(np.zeros((4, 2)))
    assert done.tolist() == [True, True, True, False] and observation[:, 0].tolist() == [100.0, 100.0, 100.0, 2.0]
    assert [info.get("TimeLimit.truncated") for info in infos] == [False, True, True, None]
    assert [info["terminal_observation"].tolist() for info in infos[:3]] == [[2.0, 7.0, 7.0]] * 3 and infos[3] == {}
    adapted.reset()
    assert env.seeds == [5, None]


@needs_rsl_rl
def test_rsl_rl_is_told_which_episodes_ended_and_how():
    import torch

    from measure.race.rsl_rl import BatchedEnv

    env = Scripted()
    adapted = BatchedEnv(env, 5, WIDTH, env.max_steps)
    assert env.seeds == [5] and adapted.get_observations()["state"].shape == (4, WIDTH)
    adapted.step(torch.zeros(4, 2))
    assert adapted.episode_length_buf.tolist() == [1, 1, 1, 1]
    observation, reward, done, extras = adapted.step(torch.zeros(4, 2))
    assert done.tolist() == [True, True, True, False] and extras["time_outs"].tolist() == [False, True, True, False]
    assert (
        observation["state"][:, 0].tolist() == [100.0, 100.0, 100.0, 2.0] and observation is adapted.get_observations()
    )
    assert adapted.episode_length_buf.tolist() == [0, 0, 0, 2] and reward.tolist() == [0.0, 1.0, 2.0, 3.0]


def learned(library, tmp_path, steps, **settings):
    """The environment, and the snapshots of a rival that learned for so many steps."""
    import importlib

    env, watch = (
        Scripted(),
        Stopwatch(folder=tmp_path, started=time.time(), milestones_s=[0.0], seconds=600.0, steps=steps),
    )
    module = importlib.import_module(f"measure.race.{library}")
    module.learn(env, 3, watch, {"hidden": [8, 6], "initial_std": 0.6, **settings})
    return env, [Network.load(path) for path in sorted(tmp_path.glob("*.safetensors"))]


@needs_sb3
def test_sb3_learns_and_what_is_kept_acts_as_its_model_does(tmp_path, monkeypatch):
    from measure.race import sb3

    models = []
    monkeypatch.setattr(
        sb3, "PPO", lambda *args, ppo=sb3.PPO, **options: models.append(ppo(*args, **options)) or models[0]
    )
    algorithm = {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "learning_rate": 1e-3}
    env, networks = learned(
        "sb3", tmp_path, 96, activation="tanh", orthogonal=False, desired_kl=1e-9, algorithm=algorithm
    )
    model, state = models[0], np.random.default_rng(0).normal(3.0, 2.0, (5, PADDED)).astype(np.float32)
    expected, _ = model.predict(model.get_vec_normalize_env().normalize_obs(state[:, :WIDTH]), deterministic=True)
    np.testing.assert_allclose(np.clip(networks[-1](state), -1.0, 1.0), expected, atol=1e-5)
    assert len(networks) == 2 and np.abs(networks[0].layers[0][0] - networks[-1].layers[0][0]).max() > 0.0
    assert env.seeds == [3] and len(env.actions) == 24
    assert model.policy.optimizer.param_groups[0]["lr"] < 1e-3  # every update's KL is above so small a target


@needs_rsl_rl
@pytest.mark.parametrize("mirrored", [False, True])
def test_rsl_rl_learns_and_what_is_kept_acts_as_its_model_does(mirrored, tmp_path, monkeypatch):
    import torch
    from tensordict import TensorDict

    from measure.race import rsl_rl

    runners, make = [], rsl_rl.runner_of
    monkeypatch.setattr(rsl_rl, "runner_of", lambda *args: runners.append(make(*args)) or runners[0])
    monkeypatch.setattr(
        rsl_rl,
        "Mirror",
        lambda robot: SimpleNamespace(
            observation=lambda x: x * np.float32([1, -1, 1]), action=lambda x: x[:, ::-1].copy()
        ),
    )
    algorithm = {"num_learning_epochs": 2, "num_mini_batches": 2}
    _, networks = learned(
        "rsl_rl", tmp_path, 96, activation="elu", num_steps=8, mirrored_samples=mirrored, algorithm=algorithm
    )
    state = np.random.default_rng(0).normal(3.0, 2.0, (5, PADDED)).astype(np.float32)
    policy = runners[0].get_inference_policy()
    expected = policy(TensorDict({"state": torch.from_numpy(state[:, :WIDTH].copy())}, batch_size=[5])).detach().numpy()
    np.testing.assert_allclose(networks[-1](state), expected, atol=1e-5)
    assert (
        np.abs(networks[0].layers[0][0] - networks[-1].layers[0][0]).max() > 0.0
        and (runners[0].alg.symmetry is not None) == mirrored
    )


def test_every_library_meets_the_same_robots_as_our_trainer():
    """train.runs.trainer spawns four seeds of SeedSequence(seed); the environments get the last."""
    assert env_seed(7) == np.random.SeedSequence(7).spawn(4)[3].generate_state(1)[0]


def test_a_policy_is_kept_once_for_each_milestone(tmp_path):
    watch = Stopwatch(folder=tmp_path, started=time.time() - 25.0, milestones_s=[10, 20, 1e6], seconds=1e6, steps=100)
    assert (watch.is_due(), watch.is_due()) == (True, False) and (watch.is_over(99), watch.is_over(100)) == (
        False,
        True,
    )
    assert Stopwatch(folder=tmp_path, started=time.time() - 25.0, milestones_s=[10], seconds=20).is_over(0)


def test_of_our_checkpoints_the_first_after_each_milestone_is_judged(tmp_path):
    import os

    for steps, seconds in ((0, 4.0), (100, 9.0), (200, 14.0), (300, 31.0)):
        path = tmp_path / "checkpoints" / f"{steps:012d}" / "state.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000.0 + seconds,) * 2)
    kept = kept_by_us(tmp_path, 1000.0, 1040.0, 350, [5, 10, 20, 30, 60])
    assert [(policy.seconds, policy.steps) for policy in kept] == [(9.0, 100), (14.0, 200), (31.0, 300), (40.0, 350)]
    assert kept[-1].path == tmp_path / "policy"


def test_a_checkpoint_acts_as_the_policy_that_its_run_has_then(tmp_path):
    trainer = Trainer(make_config(**{"policy.history": 2}))
    trainer.iterate()
    write_checkpoint(
        tmp_path / "checkpoints",
        trainer.steps,
        trainer.state_dict() | {"run.config": values_of(trainer.config)},
        keep=1,
    )
    (path,) = (tmp_path / "checkpoints").iterdir()
    act = Kept(seconds=1.0, steps=trainer.steps, path=path).act()
    state = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_allclose(act(state), Snapshot.of(trainer).policy({"state": state}), atol=1e-6)
    assert np.abs(act(state)).max() > 1e-4


CURVE = {
    "command": "python -m x",
    "seconds": [10.5, 21.0, 45.0],
    "steps": [100, 220, 450],
    "falls_per_episode": [3.0, 0.03, 0.01],
    "error_vx": [None, 0.09, 0.08],
    "error_vy": [0.3, 0.05, 0.04],
    "error_yaw_rate": [0.5, 0.05, 0.06],
}
LATER = CURVE | {"seconds": [11.5, 23.0, 47.0], "error_vx": [0.4, 0.2, 0.11], "error_vy": [0.2, 0.15, 0.06]}


def test_curves_are_summed_up_and_drawn(tmp_path):
    race = read_race([f"folder={tmp_path}", "seeds=2", "learners=[ours,sb3]", "milestones_s=[10,30,60]"])
    assert first_met(CURVE) == 45.0 and first_met(LATER) == np.inf
    figures = summary(race, [CURVE, LATER])
    assert (figures["reached"], figures["reached_s"], summary(race, [CURVE])["reached_s"]) == (1, None, 45.0)
    assert figures["at"]["10_s"]["error_vx"] is None and figures["at"]["30_s"]["error_vx"] == pytest.approx(0.145)
    assert figures["last"] == pytest.approx(
        {
            "seconds": 46.0,
            "steps": 450,
            "falls_per_episode": 0.01,
            "error_vx": 0.095,
            "error_vy": 0.05,
            "error_yaw_rate": 0.06,
        }
    )
    np.testing.assert_allclose(column(CURVE, ("error_vx", "error_vy")), [np.nan, 0.07, 0.06])
    np.testing.assert_allclose(median_curve([CURVE, LATER])["seconds"], [11.0, 22.0, 46.0])
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed: the extra viz")
    write(race, {"ours": [CURVE, LATER], "sb3": [CURVE]})
    whole = json.loads((tmp_path / "race.curves.json").read_text())
    assert whole["learners"]["ours"]["curves"] == [CURVE, LATER] and whole["earlier"]["unilab"]["error_vx"][0] == 0.076
    assert json.loads((tmp_path / "race.json").read_text())["learners"]["sb3"]["last"]["seconds"] == 45.0
    assert (tmp_path / "race.png").stat().st_size > 30_000


def test_the_readmes_table_finds_what_the_race_writes():
    race, group = read_race(["seeds=2"]), read_groups()["race"]
    result = {
        "learners": {
            name: summary(race, [CURVE, CURVE if name == "ours" else LATER]) | {"label": name} for name in race.racing
        }
    }
    run = {
        "race": result | {"process_s": 60.0, "other_cores": 0.0},
        "began": "2026-01-01",
        "commit": None,
        "changed_since": [],
        "provenance": dict.fromkeys(("cores", "processor", "python", "mujoco", "tinygrad"), 2),
    }
    lines = section("race", group, {"go2/0": run}).splitlines()
    assert lines[2] == "| ours | 45 | 2 of 2 | 10 | 0.010; 0.080, 0.040, 0.060 | 45 s: 0.010; 0.080, 0.040, 0.060 |"
    assert lines[3].startswith("| rsl_rl | - | 1 of 2 | ") and len(lines) == 2 + len(race.racing) + 2


def test_who_is_not_installed_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(
        "measure.race.__main__.find_spec", lambda module: None if module == "stable_baselines3" else module
    )
    check_installed(read_race(["learners=[ours,rsl_rl]"]))
    with pytest.raises(
        ImportError, match=r"the race needs stable-baselines3, which is not installed: pip install -e '.\[rivals\]'"
    ):
        check_installed(read_race([]))


@needs_rsl_rl
def test_mirrored_samples_are_those_of_the_robots_mirror():
    import torch
    from tensordict import TensorDict

    from measure.race.rsl_rl import MirroredSamples

    mirror, rng = Mirror(GO2_CONFIG), np.random.default_rng(0)
    state, action = (
        rng.normal(size=(3, GO2_CONFIG.state_dim)).astype(np.float32),
        rng.normal(size=(3, 12)).astype(np.float32),
    )
    samples, actions = MirroredSamples(mirror, GO2_CONFIG.state_dim, 12)(
        None, TensorDict({"state": torch.from_numpy(state)}, batch_size=[3]), torch.from_numpy(action)
    )
    np.testing.assert_array_equal(samples["state"].numpy(), np.concatenate((state, mirror.observation(state))))
    np.testing.assert_array_equal(actions.numpy(), np.concatenate((action, mirror.action(action))))
    assert samples.batch_size == (6,)


def test_a_seed_is_not_measured_again(tmp_path, monkeypatch):
    race = read_race([f"folder={tmp_path}", "seeds=2", "learners=[ours,sb3]"])
    first = racers(race)[0]
    assert [(racer.name, racer.seed) for racer in racers(race)] == [("ours", 0), ("sb3", 0), ("ours", 1), ("sb3", 1)]
    first.folder.mkdir(parents=True)
    (first.folder / "curve.json").write_text(
        json.dumps(CURVE | {"command": " ".join(["python", "-m", *first.command])})
    )
    monkeypatch.setattr(runs.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    assert first.curve(lambda _: None)["steps"] == CURVE["steps"]
    with pytest.raises(Exception, match=r"ours with seed 0 ended with exit code 3: see .*log.txt"):
        Racer(race=read_race([f"folder={tmp_path}", "steps=5"]), name="ours", seed=0).curve(
            lambda _: None
        )  # another command


@pytest.mark.parametrize(
    "argument, message",
    [
        ("learners=[sb4]", "learners names 'sb4': did you mean 'sb3'"),
        ("seconds=0", "seconds is 0"),
        ("milestones_s=[30,10]", "in rising order"),
        ("second=3", "unknown key 'second': did you mean 'seconds'"),
    ],
)
def test_arguments_are_checked(argument, message):
    with pytest.raises(ValueError, match=message):
        read_race([argument])
