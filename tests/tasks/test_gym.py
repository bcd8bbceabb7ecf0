"""Any Gymnasium environment trains by its id: made, translated, learned in, judged, exported, resumed, and refused in
one line.
"""

import dataclasses
import io
import json
import multiprocessing
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gym_runs import config, sync
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from rich.console import Console

import rfx
import train.runs.trainer as trainer_module
from envs.gym.env import GymEnv, spaces_of
from envs.gym.make import make_vector
from envs.settings.configs import compose, gym_family, merged, options
from rfx.policy.spaces import Spaces
from rfx.robot.state import FAILED
from train.judge.episodes import play_episodes
from train.judge.evaluate_config import EvaluateConfig
from train.judge.gym import environment_of, evaluate_gym, evaluation_env, gym_policy, play_gym
from train.ppo.gae import gae
from train.ppo.reward_scale import RewardScale
from train.ppo.rollout import Rollout
from train.runs.best import Snapshot
from train.runs.run import train
from train.runs.trainer import Trainer
from train.task.config import TrainConfig
from train.task.errors import InputError

# Learning


def learned(monkeypatch, wrong: str | None = None, id: str = "gym_envs:Door-v0") -> float:
    """Mean return over 100 steps of a policy that has learned 61 k steps of 5-step episodes of the Door."""
    rate = 0.0 if wrong == "no learning rate" else 1e-3
    trainer = Trainer(
        config(id, env={"num_envs": 32}, ppo={"gamma": 0.97, "learning_rate": rate}, trainer={"total_steps": 61_440})
    )
    rng = np.random.default_rng(0)

    def shuffled_gae(rollout, *arguments):
        gae(rollout, *arguments)
        rollout.advantage[...] = rng.permutation(rollout.advantage.ravel()).reshape(rollout.advantage.shape)

    def step(actions, own=trainer.env.step):
        observation, reward, terminated, truncated, _ = own(actions)
        return observation, reward, terminated | truncated, np.zeros_like(truncated), {}

    if wrong == "advantages shuffled":
        monkeypatch.setattr(trainer_module, "gae", shuffled_gae)
    if wrong == "truncation is termination":
        trainer.env.step = step
    while trainer.steps < 61_440:
        trainer.iterate()
    env = GymEnv(make_vector("gym_envs:Door-v0", 20, {"max_episode_steps": 100}), "Door-v0")
    return -play_episodes(Snapshot.of(trainer).policy, env, seed=0, conditions={}).score


def test_a_small_task_is_learned_to_a_threshold(monkeypatch):
    assert learned(monkeypatch) > 80.0  # of 100; leaving at once earns 7


def test_what_an_environment_itself_calls_failed_is_learned_from(monkeypatch):
    """Said of every step in which nobody left: without these steps nothing is known of staying."""
    assert learned(monkeypatch, id="gym_envs:Unsolved-v0") > 80.0
    env = GymEnv(make_vector("gym_envs:Unsolved-v0", 2, {}), "Unsolved-v0")
    env.reset(seed=0)
    assert not {*env.step(np.zeros((2, 1), np.float32))[4]}


def test_a_faint_observation_that_decides_the_reward_is_learned():
    """Numbers of +-5e-5: 5 of 5 for who reads them, 2.5 for who does not."""
    trainer = Trainer(
        config("gym_envs:Faint-v0", env={"num_envs": 32}, ppo={"learning_rate": 1e-3}, trainer={"total_steps": 20_480})
    )
    returns = [trainer.iterate()["episode/return"] for _ in range(20)]
    env = GymEnv(make_vector("gym_envs:Faint-v0", 100, {}), "Faint-v0")
    assert returns[0] < 3.0 and -play_episodes(Snapshot.of(trainer).policy, env, seed=0, conditions={}).score > 4.9


@pytest.mark.e2e
@pytest.mark.parametrize("wrong", ["no learning rate", "advantages shuffled", "truncation is termination"])
def test_the_threshold_is_missed_by_a_learner_that_is_wrong(wrong, monkeypatch):
    assert learned(monkeypatch, wrong) < 40.0


@pytest.mark.long
def test_cart_pole_reaches_475(tmp_path):
    values = merged(compose("tasks", "gym"), compose("gym", "classic"))
    result = train(TrainConfig.from_dict(merged(values, {"env": {"id": "CartPole-v1"}})), tmp_path, Console(quiet=True))
    assert result["evaluation"]["return"] > 475.0


def test_choices_are_learned():
    trainer = Trainer(
        config("CartPole-v1", ppo={"learning_rate": 1e-3}, trainer={"rollout_steps": 64, "total_steps": 25_600})
    )
    lengths = [trainer.iterate().get("episode/length", 0.0) for _ in range(25)]
    assert lengths[0] < 40.0 and max(lengths[-5:]) > 4 * lengths[0]
    assert "policy/std" not in trainer.iterate()


def test_whole_numbers_are_learned_to_the_most_there_is():
    trainer = Trainer(
        config(
            "gym_envs:Pick-v0",
            env={"num_envs": 32},
            ppo={"gamma": 0.0, "learning_rate": 3e-3},
            trainer={"total_steps": 40_960},
        )
    )
    while trainer.steps < 40_960:
        trainer.iterate()
    env = GymEnv(make_vector("gym_envs:Pick-v0", 20, {}), "Pick-v0")
    assert -play_episodes(Snapshot.of(trainer).policy, env, seed=0, conditions={}).score == 10.0


def test_an_environment_that_is_not_mujoco_trains_in_processes(tmp_path):
    """Pendulum: worse than -1,200 by chance."""
    begin = config("Pendulum-v1", env={"num_envs": 4}, trainer={"rollout_steps": 128, "total_steps": 1024})
    result = train(begin, tmp_path / "run", Console(quiet=True))
    assert (
        result["status"] == "finished"
        and -2000.0 < result["evaluation"]["return"] < 0.0
        and result["evaluation"]["episode_length"] == 200
    )


# Translating


def test_which_vector_environment_is_taken():
    quick = make_vector("HalfCheetah-v5", 2, {"ctrl_cost_weight": 0.5}, threads=1)
    assert type(quick).__name__ == "HalfCheetahEnv" and quick.options.ctrl_cost_weight == 0.5 and quick.num_envs == 2
    assert type(make_vector("CartPole-v1", 2, {})).__name__ == "CartPoleVectorEnv"
    slow = make_vector("gym_envs:Odd-v0", 2, {})
    assert isinstance(slow, AsyncVectorEnv) and slow.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    slow.close()


def test_actions_and_observations_are_translated():
    env = sync("gym_envs:Odd-v0", 2, AutoresetMode.SAME_STEP)
    assert env.single_action_space.shape == (2,) and env.single_observation_space.shape == (4,)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2, 4) and observation.dtype == np.float32
    # bounds are 0 to 10 and -1 to 3: -1 is the lowest, 1 and more the highest, 0 the middle
    _, reward, *_ = env.step(np.array([[-1.0, 0.0], [5.0, 1.0]], np.float32))
    np.testing.assert_array_equal(reward, [0.0 + 1.0, 10.0 + 3.0])
    choices = sync("gym_envs:Choice-v0", 2, AutoresetMode.SAME_STEP)
    choices.reset(seed=0)
    assert choices.single_action_space == gymnasium.spaces.Discrete(4)
    np.testing.assert_array_equal(choices.step(np.array([0, 3]))[1], [3.0, 6.0])  # choices from 3


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.int8, 0, 1), (np.int8, -2, 2), (np.uint8, 0, 255), (np.int64, 5, 5), (bool, 0, 1)]
)
def test_each_whole_number_has_an_equal_share(dtype, low, high):
    spaces = spaces_of(gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(low, high, (1,), dtype), "id")
    spaces = Spaces.restored(json.loads(json.dumps(dataclasses.asdict(spaces))))
    num = 60 * (high - low + 1)
    even = ((np.arange(num) + 0.5) / num * 2.0 - 1.0).astype(np.float32)  # middles of equal parts of [-1, 1]
    actions = spaces.scale(even[:, None])
    assert actions.dtype == dtype and np.array_equal(
        np.unique(actions, return_counts=True), [np.arange(low, high + 1), [60] * (high - low + 1)]
    )
    assert spaces.scale(np.array([[-9.0], [-1.0], [1.0], [9.0]], np.float32)).ravel().tolist() == [low, low, high, high]


def test_a_reset_in_the_next_step_teaches_nothing():
    """Left out the steps that only reset, the stream is that of an environment that resets in the same step."""
    same, other = (sync("gym_envs:Odd-v0", 1, mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP))
    assert other.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    streams = []
    for env in (same, other):
        stream, (observation, _) = [], env.reset(seed=0)
        while len(stream) < 7:
            before = observation
            observation, reward, terminated, truncated, info = env.step(np.ones((1, 2), np.float32))
            if not info.get(FAILED, np.zeros(1, bool))[0]:
                after = info["final_obs"][0] if truncated[0] else observation[0]
                stream.append((before[0, 0], reward[0], terminated[0], truncated[0], after[0]))
        streams.append(stream)
    assert streams[0] == streams[1] and [row[3] for row in streams[0]] == [False, False, True] * 2 + [False]


def test_an_end_for_good_is_no_truncation():
    env = GymEnv(make_vector("gym_envs:Door-v0", 1, {}), "Door-v0")
    env.reset(seed=0)
    env.env.step = lambda actions: (np.zeros((1, 1)), np.zeros(1), np.ones(1, bool), np.ones(1, bool), {})
    _, _, terminated, truncated, info = env.step(np.zeros((1, 1)))
    assert terminated.all() and not truncated.any() and "final_obs" not in info


def test_the_learning_rate_falls_to_the_end_of_the_run():
    trainer = Trainer(
        config("CartPole-v1", ppo={"learning_rate": 8e-4, "final_learning_rate": 0.0}, trainer={"total_steps": 2048})
    )
    rates = [trainer.iterate()["ppo/learning_rate"] for _ in range(5)]  # of 512 steps each
    np.testing.assert_allclose(rates, [8e-4, 6e-4, 4e-4, 2e-4, 0.0], rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match="final_learning_rate 0.0 and desired_kl 0.02: one of the two must be null"):
        config("CartPole-v1", ppo={"desired_kl": 0.02})


def test_rewards_are_scaled_by_the_spread_of_discounted_returns():
    rollout = Rollout.empty(4, 1, 1, 1)
    rollout.reward[:, 0], rollout.truncated[1, 0], rollout.failed[3, 0] = [2.0, 4.0, 6.0, 100.0], True, True
    scale = RewardScale(1, gamma=0.5)
    scale.scale(rollout)
    spread = np.std([2.0, 5.0, 6.0])  # 2, 4 + 0.5 x 2, and 6 in a new episode; the last transition does not count
    np.testing.assert_allclose(rollout.reward[:3, 0], np.array([2.0, 4.0, 6.0]) / spread, rtol=1e-6)
    other = RewardScale(1, gamma=0.5)
    other.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    assert vars(other) == vars(scale)


def test_families_name_files_that_are_there():
    families = {
        id: gym_family(id) for id in ("HalfCheetah-v5", "rfx/Ant-v5", "Swimmer-v5", "Pendulum-v1", "MODULE:Mine-v0")
    }
    assert list(families.values()) == ["runners", "ant", "swimmer", "classic", "other"]
    for family in options("gym"):
        assert {*compose("gym", family)} <= {"env", "policy", "ppo", "trainer"}
    assert all(family in options("gym") for family in map(gym_family, gymnasium.registry))
    assert compose("gym", "swimmer")["env"] == compose("gym", "mujoco")["env"]
    assert config("Swimmer-v5").ppo.gamma > config("Ant-v5").ppo.gamma


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict, str]:
    folder, file = tmp_path_factory.mktemp("gym") / "run", io.StringIO()
    return (
        folder,
        train(config("HalfCheetah-v5", env={"num_envs": 4}), folder, Console(file=file, width=200)),
        file.getvalue(),
    )


def test_a_run_says_what_it_learns_and_ends_with_its_return(run):
    folder, result, shown = run
    assert "4 environments" in shown and "rfx/HalfCheetah-v5, Gymnasium's HalfCheetah-v5 in batches" in shown
    assert f"python -m train.evaluate policy={folder}" in shown and "20" not in result["evaluation"]
    assert {"return", "return_std", "lowest_return", "episode_length", "score", "id", "episodes", "seed"} <= result[
        "evaluation"
    ].keys()


def test_a_policy_folder_runs_on_plain_observations(run):
    policy = rfx.load_policy(run[0] / "policy")
    assert policy.training_info["env"]["id"] == "HalfCheetah-v5" and policy.spaces.observation_shape == (17,)
    env = make_vector("HalfCheetah-v5", 3, {}, threads=1)
    observation, _ = env.reset(seed=5)
    actions = policy(observation)
    assert env.action_space.contains(actions)
    np.testing.assert_allclose(policy(observation[1]), actions[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"observation of shape \(16,\); expected \(17,\)"):
        policy(observation[0, :16])


def test_an_environment_is_given_the_same_arguments_when_its_policy_is_judged(tmp_path):
    kwargs = {"goal": [1, 2.5], "gravity": 10.0, "num": 3, "rooms": [[0, 1], [2.0]], "inner": {"sizes": [4]}}
    trainer = Trainer(config("gym_envs:Told-v0", env={"num_envs": 1, "kwargs": kwargs}, trainer={"rollout_steps": 8}))
    asked = trainer.env.env.get_attr("kwargs")[0]
    trainer.env.close()
    info = {"task": "gym", "env": dataclasses.asdict(trainer.config.env)}
    trainer.task.export(Snapshot.of(trainer).policy, tmp_path / "policy", info)
    env, _ = evaluation_env(*environment_of(gym_policy(str(tmp_path / "policy"))), 1)
    assert repr(env.env.get_attr("kwargs")[0]) == repr(asked) == repr(kwargs)


def test_a_policy_of_choices_names_one(tmp_path):
    trainer = Trainer(config("gym_envs:Choice-v0", env={"num_envs": 2}, trainer={"rollout_steps": 8}))
    trainer.iterate()
    trainer.env.close()
    snapshot = Snapshot.of(trainer)
    trainer.task.export(snapshot.policy, tmp_path / "policy", {"task": "gym", "env": {"id": "gym_envs:Choice-v0"}})
    policy = rfx.load_policy(tmp_path / "policy")
    action = policy(np.zeros((2, 2), np.int64))
    assert action in (3, 4, 5, 6) and action.dtype == np.int64
    logits = trainer.policy.output(
        __import__("tinygrad").Tensor(policy.normalizer.normalize(np.zeros((1, 4), np.float32)))
    ).numpy()[0, :4]
    assert action == 3 + logits.argmax()


def test_a_policy_is_judged_by_itself_on_other_seeds(run, tmp_path):
    path, file = str(run[0] / "policy"), io.StringIO()
    settings = EvaluateConfig(policy=path, episodes=2, output=str(tmp_path / "e.json"))
    judgement = evaluate_gym(gym_policy(path), settings, Console(file=file, width=120))
    told = json.loads((tmp_path / "e.json").read_text())
    assert (
        told["episodes"] == 2
        and told["seed"] == 0
        and told["return"] == -judgement.score
        and told["episode_length"] == 1000
    )
    assert "2 full episodes" in file.getvalue()
    with pytest.raises(InputError, match="suite is 'full': leave it out, it is for policies of robots"):
        evaluate_gym(gym_policy(path), dataclasses.replace(settings, mjcf=None, suite="full"), Console(quiet=True))


def test_a_run_goes_on_to_the_bit():
    one, other = (Trainer(config("Hopper-v5", env={"num_envs": 4})) for _ in range(2))
    for _ in range(2):
        one.iterate()
    other.load_state_dict(
        json.loads(json.dumps({k: v for k, v in one.state_dict().items() if not isinstance(v, np.ndarray)}))
        | {k: v for k, v in one.state_dict().items() if isinstance(v, np.ndarray)}
    )
    for _ in range(2):
        mine, theirs = one.iterate(), other.iterate()
        assert {k: v for k, v in mine.items() if not k.startswith("time/")} == {
            k: v for k, v in theirs.items() if not k.startswith("time/")
        }


def test_a_policy_is_watched_on_a_page(tmp_path, capsys):
    pytest.importorskip("pygame")
    trainer = Trainer(config("CartPole-v1"))
    trainer.task.export(Snapshot.of(trainer).policy, tmp_path / "policy", {"task": "gym", "env": {"id": "CartPole-v1"}})
    stop = threading.Event()
    playing = threading.Thread(
        target=play_gym,
        args=(gym_policy(str(tmp_path / "policy")),),
        kwargs={"window": False, "host": "127.0.0.1", "port": 0, "stop": stop},
    )
    playing.start()
    try:
        for _ in range(600):
            if "http" in (told := capsys.readouterr().out):
                break
            time.sleep(0.05)
        url = told.split()[1]
        with urllib.request.urlopen(f"{url}picture?after=0", timeout=60) as answer:
            assert answer.read(2) == b"\xff\xd8" and json.loads(answer.headers["X-State"])["note"].startswith(
                "return "
            )  # a JPEG
    finally:
        stop.set()
        playing.join()


def test_what_cannot_be_drawn_is_said_before_the_page_opens_or_an_episode_is_played(tmp_path, capsys, monkeypatch):
    """CartPole draws with pygame, which the extra train does not bring."""
    monkeypatch.setitem(sys.modules, "pygame", None)
    trainer = Trainer(config("CartPole-v1"))
    path = tmp_path / "policy"
    trainer.task.export(Snapshot.of(trainer).policy, path, {"task": "gym", "env": {"id": "CartPole-v1"}})
    with pytest.raises(
        InputError, match=r"cannot be drawn: pygame is not installed.*: pip install -e '.\[gym\]'"
    ) as error:
        play_gym(gym_policy(str(path)), window=False, host="127.0.0.1", port=0)
    assert "\n" not in str(error.value) and "open" not in capsys.readouterr().out
    monkeypatch.setattr("train.judge.gym.play_episodes", lambda *_, **__: pytest.fail("played in vain"))
    monkeypatch.setattr("train.judge.evaluate_config.importlib.util.find_spec", lambda name: True)
    with pytest.raises(InputError, match="cannot be drawn"):
        evaluate_gym(
            gym_policy(str(path)), EvaluateConfig(policy=str(path), video=str(tmp_path / "v.mp4")), Console(quiet=True)
        )


@pytest.mark.parametrize(("id", "shape"), [("envs:rfx/Ant-v5", (3, 105)), ("envs:rfx/Go2-v0", (3, 64))])
def test_gymnasium_finds_our_environments_where_nothing_of_ours_was_imported(id, shape):
    """MODULE:ID is Gymnasium's own way: its entry points for plugins went with 1.0.

    Importing the module loads no physics.
    """
    code = (
        f"import sys, gymnasium; assert not [name for name in gymnasium.registry if name.startswith('rfx/')]; import envs; "
        f"light = not {{'mujoco', 'tinygrad', 'hydra', 'train'}} & {{*sys.modules}}; "
        f"del sys.modules['envs']; gymnasium.registry.clear(); env = gymnasium.make_vec({id!r}, 3); observation, _ = env.reset(seed=0); "
        f"print(light, observation['state'].shape if isinstance(observation, dict) else observation.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == f"True {shape}", done.stderr


def test_a_trainer_that_is_closed_leaves_no_process():
    trainer = Trainer(config("gym_envs:Odd-v0", env={"num_envs": 2}))
    assert len(multiprocessing.active_children()) >= 2
    others = len(multiprocessing.active_children()) - 2
    trainer.close()
    assert len(multiprocessing.active_children()) == others
