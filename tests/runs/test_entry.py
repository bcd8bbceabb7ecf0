"""Training from Python: the command line's configuration and bits, callbacks, and a host that stays as it was."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from envs.settings.configs import CONFIGS
from train import Callback, InputError, TrainedRun, TrainingBroken, train
from train.commands.compose import compose_run, override
from train.commands.from_python import unused
from train.commands.train import take_robot_folders
from train.runs.callbacks import as_callback
from train.runs.checkpoint import checkpoints
from train.runs.metrics import read_metrics
from train.runs.resume import read_record
from train.task.task import Judgement

ROOT = Path(__file__).resolve().parents[2]
STEPS = 64  # of an iteration
TINY = {
    "env.id": "InvertedPendulum-v5",
    "env.num_envs": 4,
    "policy.hidden": [8],
    "ppo.num_epochs": 1,
    "ppo.num_minibatches": 2,
    "trainer.rollout_steps": 16,
    "trainer.total_steps": 8 * STEPS,
    "trainer.evaluate_every": 2 * STEPS + 10,
    "trainer.evaluation_envs": 2,
    "trainer.final_evaluation_envs": 2,
    "trainer.checkpoint_every": STEPS,
    "logger": "csv",
    "threads": 1,
}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TrainedRun:
    """A run that nothing interrupts."""
    return train("gym", TINY, folder=tmp_path_factory.mktemp("runs") / "whole", quiet=True)


def trained(settings: dict | None = None, callbacks=(), folder: str = "run") -> TrainedRun:
    return train("gym", TINY | (settings or {}), callbacks=callbacks, folder=folder, quiet=True)


# What is composed.

DEPLOY = {
    "preset": "deploy",
    "seed": 3,
    "policy.hidden": [64, 32],
    "env.randomize": False,
    "name": "it's 'a' \"name\"",
    "trainer.total_steps": 1e6,
    "env.commands.uniform_velocity.vx": (-1, 2.5),
    "+env.rewards.lean": {"term": "tilt", "weight": -1.5},
    "~env.rewards.pose": None,
}
COMMANDS = {
    "a key": (("go2", {"ppo.gamma": 0.98}), ["+robot=go2", "ppo.gamma=0.98"]),
    "a preset, text, lists and terms": (
        ("go2", DEPLOY),
        [
            "+robot=go2",
            "preset=deploy",
            "seed=3",
            "policy.hidden=[64,32]",
            "env.randomize=false",
            """name='it\\'s \\'a\\' "name"'""",
            "trainer.total_steps=1e6",
            "env.commands.uniform_velocity.vx=[-1,2.5]",
            "+env.rewards.lean={term: tilt, weight: -1.5}",
            "~env.rewards.pose",
        ],
    ),
    "a family of environments": (
        ("gym", {"env.id": "HalfCheetah-v5", "+env.kwargs.ctrl_cost_weight": 0.2, "start_from": None}),
        ["+robot=gym", "env.id=HalfCheetah-v5", "+env.kwargs.ctrl_cost_weight=0.2", "start_from=null"],
    ),
    "a group": (
        ("go2_rough", {"+scale": "ray", "scale.workers": 3}),
        ["+robot=go2_rough", "+scale=ray", "scale.workers=3"],
    ),
    "a folder": ((Path("my robot"), {}), ["+robot=my robot"]),
}


def composed_from_python(robot, settings) -> dict:
    """The values that train composes, without training."""
    return OmegaConf.to_container(
        compose_run(take_robot_folders([f"+robot={robot}", *(override(*each) for each in settings.items())])).values
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_settings_compose_what_hydra_does_with_the_command_line(name):
    shutil.copytree(ROOT / "assets" / "go2", "my robot")
    arguments, words = COMMANDS[name]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        expected = OmegaConf.to_container(compose("train", take_robot_folders(words)))
    assert composed_from_python(*arguments) == expected


@pytest.mark.e2e
@pytest.mark.parametrize("name", COMMANDS)
def test_settings_compose_what_the_command_does(name):
    shutil.copytree(ROOT / "assets" / "go2", "my robot")
    arguments, words = COMMANDS[name]
    done = subprocess.run(
        [sys.executable, "-m", "train", *words, "--cfg", "job"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert composed_from_python(*arguments) == OmegaConf.to_container(OmegaConf.create(done.stdout))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\r")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values)
def test_hydra_reads_an_override_as_the_value_that_it_was_written_from(value):
    def plain(read):
        """With text for what Hydra keeps quoted, and keys as text: it reads `null` and `true` as other things."""
        if isinstance(read, dict):
            return {str(key): plain(each) for key, each in read.items()}
        return [*map(plain, read)] if isinstance(read, list) else read.text if isinstance(read, QuotedString) else read

    found = OverridesParser.create().parse_override(override("a.key", value))
    assert found.key_or_group == "a.key" and plain(found.value()) == value
    assert isinstance(value, (list, dict)) or type(found.value()) is type(value)


@pytest.mark.parametrize(
    ("robot", "settings", "message"),
    [
        ("go2", {"ppo.gama": 0.9}, "ppo.gamma"),
        ("go22", {}, "did you mean 'go2'"),
        ("go2", {"env.id": "CartPole-v1"}, "env.id"),
        ("go2", {"ppo.gamma": "high"}, "ppo.gamma.*'high'.*a number"),
        ("go2", {"ppo.gamma": 2.0}, "gamma 2"),
        ("go2", {"ppo.gamma": np.float32(0.9)}, "ppo.gamma is .*must be a number"),
        ("go2", {"seeds": 3}, "seeds=3"),
        ("go2", {"logger": "tensorbord"}, "did you mean 'tensorboard'"),
        ("go2", {"resume": "latest"}, "resume=latest"),
        ("gym", {"env.id": "CartPol-v1"}, "CartPole-v1"),
        ("gym", {}, "env.id"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line_and_leaves_no_folder(robot, settings, message):
    with pytest.raises(InputError, match=message) as error:
        train(robot, settings, quiet=True)
    assert "\n" not in str(error.value) and not list(Path().glob("runs/*"))


def test_one_folder_is_given_and_callbacks_are_callable():
    with pytest.raises(InputError, match="give one of them"):
        train("gym", {"hydra.run.dir": "a"}, folder="b")
    for wrong in (3, Callback):
        with pytest.raises(TypeError, match="Callback"):
            as_callback(wrong)
        with pytest.raises(InputError, match="Callback"):
            trained(callbacks=[wrong])
    assert not Path("run").exists()


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    names = []
    for _ in range(3):
        names.append(unused(tmp_path / "run"))
        names[-1].mkdir()
    assert [path.name for path in names] == ["run", "run_2", "run_3"]


# What a run comes to.


def test_a_run_gives_figures_and_a_policy_that_acts(whole):
    assert (whole.status, whole.steps, whole.folder.name) == ("finished", 8 * STEPS, "whole") and whole.wall_s > 0
    evaluation = json.loads((whole.folder / "evaluation.json").read_text())
    assert whole.figures.items() <= evaluation.items() and {"return", "score"} <= whole.figures.keys()
    assert whole.policy(np.zeros(4)).shape == (1,) and whole.policy.training_info["steps"] <= whole.steps


@pytest.mark.e2e
def test_the_command_line_trains_the_same_bits_and_knows_the_folder(whole):
    words = ["+robot=gym", *(override(*each) for each in TINY.items())]
    command = [sys.executable, "-m", "train"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *words, "hydra.run.dir=run"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert read_record(Path("run"))["fingerprint"] == read_record(whole.folder)["fingerprint"]
    assert read_record(Path("run"))["config"] == read_record(whole.folder)["config"]
    for name in ("config", "overrides"):
        assert yaml.safe_load(Path(f"run/.hydra/{name}.yaml").read_text()) == yaml.safe_load(
            (whole.folder / f".hydra/{name}.yaml").read_text()
        )
    results = [json.loads((folder / "result.json").read_text()) for folder in (Path("run"), whole.folder)]
    assert results[0]["overrides"] == results[1]["overrides"] == words
    again = subprocess.run(
        [*command, *words, f"resume={whole.folder}"], capture_output=True, text=True, env=environment
    )
    assert again.returncode == 2 and "has finished" in again.stderr


def test_quiet_prints_nothing_and_otherwise_it_says_what_the_command_says(capsys):
    trained({"trainer.total_steps": STEPS})
    assert capsys.readouterr() == ("", "")
    train("gym", TINY | {"trainer.total_steps": STEPS}, folder="loud")
    assert "Done after" in (said := capsys.readouterr().out) and "loud/policy" in said


# Callbacks.


class Diary(Callback):
    """Notes every call; may end the run."""

    def __init__(self, last: int = 10**9, last_evaluation: int = 10**9):
        self.last, self.last_evaluation, self.calls = last, last_evaluation, []

    def on_iteration(self, steps, metrics):
        self.calls.append(("iteration", steps, metrics))
        return steps >= self.last

    def on_evaluation(self, steps, judgement):
        self.calls.append(("evaluation", steps, judgement))
        return steps >= self.last_evaluation


def test_callbacks_see_every_iteration_and_evaluation_between_two_of_them(whole):
    diary = Diary()
    run = trained(callbacks=[diary])
    evaluated = [138, 276, 414]  # multiples of 138 before the end
    assert [(kind, steps) for kind, steps, _ in diary.calls] == [
        ("iteration", 64),
        ("iteration", 128),
        ("evaluation", 138),
        ("iteration", 192),
        ("iteration", 256),
        ("evaluation", 276),
        ("iteration", 320),
        ("iteration", 384),
        ("evaluation", 414),
        ("iteration", 448),
        ("iteration", 512),
    ]
    kls = [metrics["ppo/kl"] for kind, _, metrics in diary.calls if kind == "iteration"]
    np.testing.assert_array_equal(kls, read_metrics(run.folder, "ppo/kl")[:, 1])
    judgements = [told for kind, _, told in diary.calls if kind == "evaluation"]
    assert all(isinstance(told, Judgement) for told in judgements) and len(judgements) == len(evaluated)
    np.testing.assert_array_equal(
        [told.score for told in judgements], read_metrics(run.folder, "evaluation/score")[:3, 1]
    )
    assert read_record(run.folder)["fingerprint"] == read_record(whole.folder)["fingerprint"]  # to look changes nothing


@pytest.mark.parametrize(
    ("callback", "steps"),
    [
        (lambda steps, metrics: steps >= 3 * STEPS, 3 * STEPS),
        (Diary(last=2 * STEPS), 2 * STEPS),
        (Diary(last_evaluation=276), 5 * STEPS),
    ],
)
def test_true_ends_the_run_which_is_judged_and_can_go_on_to_the_same_bits(whole, callback, steps):
    others = Diary()
    run = trained(callbacks=[callback, others])
    assert (run.status, run.steps) == ("ended", steps) and others.calls[-1][1] == steps
    assert (
        math.isfinite(run.figures["score"])
        and (run.folder / "evaluation.json").is_file()
        and not read_record(run.folder)["finished"]
    )
    went_on = train("gym", TINY | {"resume": str(run.folder)}, quiet=True)
    assert (went_on.status, went_on.steps, went_on.folder) == ("finished", 8 * STEPS, run.folder)
    assert read_record(run.folder)["fingerprint"] == read_record(whole.folder)["fingerprint"]


def test_a_run_that_a_callback_would_end_at_its_last_step_has_finished():
    run = trained({"trainer.total_steps": 2 * STEPS}, callbacks=[Diary(last=2 * STEPS)])
    assert run.status == "finished" and read_record(run.folder)["finished"]


class GivesUp(Diary):
    gives_up = True


def test_a_run_that_is_given_up_has_its_last_evaluation_alone():
    run = trained(callbacks=[GivesUp(last_evaluation=138)])
    assert (run.status, run.steps) == ("pruned", 3 * STEPS) and not (run.folder / "evaluation.json").exists()
    assert run.figures["score"] == read_metrics(run.folder, "evaluation/score")[-1, 1]
    early = trained(callbacks=[GivesUp(last=STEPS)], folder="early")  # before any evaluation
    assert (early.status, early.steps, early.figures) == ("pruned", STEPS, {}) and early.policy(np.zeros(4)).shape == (
        1,
    )


def test_an_error_in_a_callback_is_the_callers_and_the_run_can_go_on(whole):
    def fail(steps, metrics):
        if steps == 4 * STEPS:
            raise PermissionError("mine")  # no OSError of writing metrics, which would only be told

    with pytest.raises(PermissionError, match="mine"):
        trained(callbacks=[fail])
    went_on = train("gym", TINY | {"resume": "run"}, quiet=True)
    assert (
        went_on.status == "finished"
        and read_record(Path("run"))["fingerprint"] == read_record(whole.folder)["fingerprint"]
    )


def test_loggers_get_what_the_table_gets_and_are_closed_whatever_happens(tmp_path, monkeypatch):
    """Of one that cannot write, the run tells once, and goes on."""
    (tmp_path / "noting_logger.py").write_text(
        "made = []\n"
        "class Mine:\n"
        "    def __init__(self, folder, config, steps):\n"
        "        self.about, self.told, self.closed = (folder, config.seed, steps), [], 0\n"
        "        made.append(self)\n"
        "    def log(self, steps, metrics):\n"
        "        self.told.append((steps, metrics))\n"
        "    def close(self):\n"
        "        self.closed += 1\n"
        "class Full(Mine):\n"
        "    def log(self, *_):\n"
        "        raise OSError(28, 'No space left on device')\n"
        "    close = log\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"logger": ["noting_logger:Full", "noting_logger:Mine"]}

    def fail(steps, metrics):
        if steps == 3 * STEPS:
            raise KeyError("mine")

    with pytest.raises(KeyError):
        trained(settings, callbacks=[fail])
    train("gym", TINY | settings | {"resume": "run"}, quiet=True)
    import noting_logger

    _, first, _, second = noting_logger.made
    assert (first.about, second.about) == ((Path("run"), 0, 0), (Path("run"), 0, 3 * STEPS)) and (
        first.closed,
        second.closed,
    ) == (1, 1)
    told = [*first.told, *second.told]
    kls = read_metrics(Path("run"), "ppo/kl")
    assert [(steps, metrics["ppo/kl"]) for steps, metrics in told if "ppo/kl" in metrics] == [
        (steps, kl) for steps, kl in kls
    ]
    assert told[-1][1]["evaluation/score"] == read_metrics(Path("run"), "evaluation/score")[-1, 1]


def test_training_that_breaks_is_an_error(monkeypatch):
    def broken(*_):
        raise TrainingBroken("no number is finite")

    monkeypatch.setattr("train.runs.run.check_updates", broken)
    with pytest.raises(TrainingBroken, match="no number is finite"):
        trained()


# The host process.


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_raised_once_the_state_is_on_disk_and_handlers_are_put_back(number, raised):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised):
        trained(callbacks=[lambda steps, metrics: os.kill(os.getpid(), number) if steps == 2 * STEPS else None])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert [path.name for path in checkpoints(Path("run/checkpoints"))][-1] == f"{2 * STEPS:012d}"


def test_it_trains_in_any_thread(whole):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(trained()))
    thread.start()
    thread.join()
    assert read_record(runs[0].folder)["fingerprint"] == read_record(whole.folder)["fingerprint"]


def test_hydra_of_the_host_stays_as_it_was():
    (own := Path("conf")).mkdir()
    (own / "mine.yaml").write_text("mine: 1\n")
    with initialize_config_dir(str(own.resolve()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        composed_from_python("go2", {"ppo.gamma": 0.5})
        assert GlobalHydra.instance().hydra is hydra and compose("mine") == {"mine": 1}
        with pytest.raises(InputError):
            composed_from_python("go2", {"ppo.gama": 0.5})
        assert compose("mine") == {"mine": 1}
    composed_from_python("go2", {})
    assert not GlobalHydra.instance().is_initialized()


def test_importing_train_loads_nothing_and_the_names_are_there():
    code = (
        "import os, sys; before = dict(os.environ); import train; "
        "print(sorted(set(sys.modules) & {'numpy', 'hydra', 'rich', 'mujoco', 'gymnasium', 'tinygrad', 'rfx', 'envs'}), "
        "sorted(set(os.environ) - set(before)), train.__all__ == [name for name in train.__all__ if getattr(train, name).__doc__])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DEV", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    assert re.sub(r"\s+", " ", done.stdout) == "[] ['DEV', 'OPENBLAS_NUM_THREADS'] True "
