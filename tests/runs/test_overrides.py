"""resume=RUN takes what the run's own command line said, and lays over it what is given now."""

import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tiny_run import make_config

import train.commands.train as entry
from train.runs.overrides import laid_over
from train.runs.resume import OVERRIDES, update_record, values_of
from train.task.config import TrainConfig


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        (["+robot=go2", "seed=1"], [], ["+robot=go2", "seed=1"]),
        (["+robot=go2", "seed=1"], ["+robot=go2", "seed=2"], ["+robot=go2", "seed=2"]),
        (["+robot=go2"], ["++robot=a1"], ["++robot=a1"]),  # a robot is chosen once
        (
            ["+env.rewards.jerk={weight: -1}"],
            ["env.rewards.jerk.weight=-2"],
            ["+env.rewards.jerk={weight: -1}", "env.rewards.jerk.weight=-2"],
        ),
        (
            ["+env.kwargs.x=1"],
            ["env.kwargs.x=2"],
            ["+env.kwargs.x=1", "env.kwargs.x=2"],
        ),  # x is there once it was added
        (["+robot=go2", "+scale=ray", "scale.workers=2", "scales=1"], ["~scale"], ["+robot=go2", "scales=1"]),
        (["~env.rewards.tilt"], ["~env.rewards.tilt"], ["~env.rewards.tilt"]),
    ],
)
def test_what_is_given_now_counts_above_the_runs_own(own, given, expected) -> None:
    assert laid_over(own, given) == expected


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Composes as a command line does, in tmp_path. Returns the TrainConfig, and the overrides for the run's record."""
    monkeypatch.chdir(tmp_path)

    def compose(*arguments: str) -> tuple[TrainConfig, list[str] | None]:
        found = []

        def train(config, folder, console=None, callbacks=(), overrides=None):
            found.append((config, overrides))
            return {"status": "finished", "exit_code": 0, "evaluation": None}

        monkeypatch.setattr("train.runs.run.train", train)
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        entry.main()
        return found[-1]

    return compose


def begin(folder: Path, config: TrainConfig, overrides: list[str] | None) -> None:
    """What a run has written as soon as it begins."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    update_record(folder, {"config": values_of(config)} | ({} if overrides is None else {OVERRIDES: overrides}))


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "+robot=go2",
            "preset=deploy",
            "seed=3",
            "env.num_envs=8",
            "ppo.num_minibatches=2",
            "+env.rewards.jerk={term: foreign_terms:spin, weight: -1}",
        ],
        ["+robot=gym", "env.id=HalfCheetah-v5", "+env.kwargs.ctrl_cost_weight=0.2"],
        ["task=foreign_task:PointTask", "+env.num_envs=16", "+trainer.rollout_steps=4", "+policy.hidden=[8]"],
        ["+robot=go2", "~env.rewards.tilt", "trainer.total_steps=3e6"],
    ],
)
def test_the_command_that_a_run_prints_says_the_same_again(composed, tmp_path, arguments) -> None:
    config, overrides = composed(*arguments, "hydra.run.dir=run")
    assert overrides == arguments
    begin(tmp_path / "run", config, overrides)
    again, once_more = composed("resume=run")
    assert values_of(again) == values_of(config) | {"resume": "run"} and once_more == overrides


def test_settings_given_with_it_are_told_kept_and_need_no_permission(composed, tmp_path, capsys) -> None:
    begin(tmp_path / "run", *composed("+robot=go2", "env.num_envs=8", "hydra.run.dir=run"))
    config, overrides = composed("+robot=go2", "resume=run", "ppo.clip=0.3")
    assert (config.ppo.clip, config.env.num_envs, config.resume_overrides) == (0.3, 8, True)
    assert "ppo.clip=0.3" in capsys.readouterr().out
    assert not composed("+robot=go2", "env.num_envs=8", "resume=run")[0].resume_overrides  # its own, said again
    begin(tmp_path / "run", config, overrides)
    assert composed("resume=run")[0].ppo.clip == 0.3


def test_a_robot_in_a_folder_is_gone_on_with(composed, tmp_path) -> None:
    from rfx.robot.files import ASSETS

    values = yaml.safe_load((ASSETS / "go2" / "robot.yaml").read_text()) | {"mjcf": str(ASSETS / "go2" / "go2.xml")}
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "robot.yaml").write_text(yaml.safe_dump(values))
    config, overrides = composed("+robot=dog", "hydra.run.dir=run")
    begin(tmp_path / "run", config, overrides)
    assert composed("resume=run")[0].robot == config.robot == str(tmp_path / "dog")


def test_a_run_that_no_command_line_began_is_gone_on_with_whole(composed, tmp_path) -> None:
    begin(tmp_path / "run", config := make_config(**{"env.rewards": {"foreign_terms:spin": {"weight": -1.0}}}), None)
    again, overrides = composed("resume=run", "trainer.total_steps=9999")
    changed = {"resume": "run", "resume_overrides": True, "trainer.total_steps": 9999}
    assert values_of(again) == values_of(config) | changed
    assert overrides is None  # its record's configuration says it all, the next time too
    begin(tmp_path / "run", again, None)
    assert composed("resume=run")[0].trainer.total_steps == 9999


def test_a_run_that_was_stopped_before_its_record_says_what_hydra_noted(composed, tmp_path) -> None:
    (hydra := tmp_path / "run" / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(["+robot=go2", "seed=5", "resume=elsewhere"]), hydra / "overrides.yaml")
    OmegaConf.save(OmegaConf.create({"robot": "go2"}), hydra / "config.yaml")
    config, _ = composed("resume=run")
    assert (config.robot, config.seed, config.resume) == ("go2", 5, "run")


def test_where_there_is_no_run_it_is_refused_in_one_line(composed, tmp_path, capsys) -> None:
    for given in ("resume=nowhere", "resume=latest"):
        with pytest.raises(SystemExit) as ended:
            composed(given)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.count("\n") == 1 and given in said
    assert not [*tmp_path.iterdir()]
