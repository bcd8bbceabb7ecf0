"""A search with Optuna: what it asks for, that it goes on where it was, gives bad runs up, and says in one line what
cannot be.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("optuna") is None:
    pytest.skip("optuna is not installed: pip install -e '.[search]'", allow_module_level=True)

from train.runs.callbacks import Callback
from train.sweeps.gather import Inbox, elsewhere
from train.sweeps.importance import of_search
from train.sweeps.search import Search, SearchConfig
from train.sweeps.study import load_study, pruner_of
from train.task.errors import InputError
from train.task.task import Judgement

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "x": {"low": -1.0, "high": 1.0, "step": None, "log": False},
    "rate": {"low": 1e-4, "high": 1e-2, "step": None, "log": True},
    "size": {"low": 2, "high": 5, "step": None, "log": False},
    "net": {"choices": ["[64,64]", "[128,128]"]},
}
DEFAULT = {"x": 0.5, "rate": 1e-3, "size": 3, "net": [128, 128]}


def search(
    folder: Path, space=SPACE, default=DEFAULT, fixed=("+robot=go2", "seed=4"), seed=4, seeds=1, said=None, **settings
) -> Search:
    folder.mkdir(exist_ok=True)
    return Search(
        folder,
        SearchConfig(**{"num_trials": 6, "random_trials": 3} | settings),
        space,
        fixed,
        default,
        seed=seed,
        seeds=seeds,
        tell=(said if said is not None else []).append,
    )


def values_of(overrides: list[str]) -> dict[str, str]:
    return dict(override.partition("=")[::2] for override in overrides)


def end(folder: Path, num: int, status: str = "finished", **evaluation: float | None) -> None:
    """What a run leaves."""
    (folder / str(num)).mkdir(exist_ok=True)
    (folder / str(num) / "result.json").write_text(json.dumps({"status": status, "evaluation": evaluation or None}))


def play(found: Search, folder: Path) -> list[dict[str, str]]:
    """Run all that is asked for; the score is the distance of x from -0.3."""
    asked = []
    for num, overrides in found.jobs():
        asked.append(values_of(overrides) | {"run": num})
        end(folder, num, score=abs(float(asked[-1]["x"]) + 0.3))
        found.ended(num)
    return asked


def test_it_tries_the_configuration_first_and_then_values_of_the_ranges(tmp_path):
    said: list[str] = []
    found = search(tmp_path, said=said)
    asked = play(found, tmp_path)
    found.close()
    assert [values["run"] for values in asked] == [0, 1, 2, 3, 4, 5]
    assert asked[0] == {
        "+robot": "go2",
        "x": "0.5",
        "rate": "0.001",
        "size": "3",
        "net": "[128,128]",
        "seed": "4",
        "run": 0,
    }
    for values in asked:
        assert -1 <= float(values["x"]) <= 1 and 1e-4 <= float(values["rate"]) <= 1e-2
        assert int(values["size"]) in (2, 3, 4, 5) and values["net"] in ("[64,64]", "[128,128]")
    assert len({values["x"] for values in asked}) == 6
    best = min(range(6), key=lambda run: abs(float(asked[run]["x"]) + 0.3))
    assert "6 trials, 6 complete" in said[0] and f"in trial {best}," in said[1]
    importance, _ = of_search(tmp_path)
    assert importance.keys() == SPACE.keys() and sum(importance.values()) == pytest.approx(1.0)


def test_given_again_it_goes_on_and_repeats_no_draw(tmp_path):
    """An interrupted trial comes first, as the same run with the same values; what was found is not asked for again."""
    first = search(tmp_path)
    jobs = first.jobs()
    asked = []
    for _ in range(3):
        num, overrides = next(jobs)
        asked.append((num, overrides))
    for num, _ in asked[:2]:
        end(tmp_path, num, score=1.0)
        first.ended(num)
    end(tmp_path, 2, status="stopped")
    first.ended(2)
    again = search(tmp_path)
    rest = [(num, overrides) for num, overrides in again.jobs()]
    assert rest[0] == asked[2] and [num for num, _ in rest] == [2, 3, 4, 5]
    assert len({values_of(overrides)["x"] for _, overrides in asked + rest}) == 6


def test_the_folder_of_another_search_is_refused(tmp_path):
    search(tmp_path)
    for changed, word in (
        ({"metric": "error_vx"}, "metric was score, is error_vx"),
        ({"seeds": 2}, "seeds was 1, is 2"),
        ({"space": {"x": SPACE["x"]}, "default": {"x": 0.5}}, "space was"),
        ({"fixed": ("+robot=a1",)}, "overrides was"),
        ({"seed": 5}, "seed was 4, is 5"),
    ):
        with pytest.raises(InputError, match=f"holds another search: .*{word}"):
            search(tmp_path, **changed)
    search(tmp_path, num_trials=50, minutes=3.0, parallel=2)  # a budget may change


def judged(score: float) -> Judgement:
    """An evaluation with this score and nothing else."""
    return Judgement(score=score, figures=(), conditions={}, note="")


@pytest.mark.e2e
def test_bad_runs_are_given_up_by_their_evaluations(tmp_path):
    """After three whole trials with scores 1, 2, 3 at step 100: the median is 2.

    A run at 2.5 is given up, one at 1.5 is not.
    """
    found = search(tmp_path, full_trials=3)
    jobs = found.jobs()
    for score in (1.0, 2.0, 3.0):
        num, _ = next(jobs)
        assert not pruner_of(tmp_path / str(num)).on_evaluation(100, judged(score))
        end(tmp_path, num, score=score)
        found.ended(num)
    for score, pruned in ((2.5, True), (1.5, False)):
        num, _ = next(jobs)
        pruner = pruner_of(tmp_path / str(num))
        assert not pruner.on_evaluation(100, judged(math.inf)) and pruner.on_evaluation(100, judged(score)) is pruned
        assert pruner.on_evaluation(100, judged(score)) is pruned  # a run that goes on evaluates once more
        end(tmp_path, num, status="pruned" if pruned else "finished", score=score)
        found.ended(num)
    assert [trial.state.name for trial in load_study(tmp_path).trials] == ["COMPLETE"] * 3 + ["PRUNED", "COMPLETE"]
    assert pruner_of(tmp_path / "3") is None and pruner_of(tmp_path / "elsewhere") is None


class PrunerThere(Callback):
    """Asks an inbox of this process."""

    def __init__(self, inbox: Inbox, num: int):
        self.inbox, self.num = inbox, num

    def on_evaluation(self, steps: int, judgement: Judgement) -> bool:
        return self.inbox.prune(self.num, steps, judgement)


def test_a_run_on_another_machine_is_watched_where_the_study_lies(tmp_path):
    found = search(tmp_path, full_trials=2)
    jobs, inbox = found.jobs(), Inbox(tmp_path)
    for score in (1.0, 2.0):
        num, _ = next(jobs)
        with elsewhere(num, {}, 1000.0, lambda new, names: True, PrunerThere(inbox, num)) as there:
            assert not pruner_of(there / str(num)).on_evaluation(100, judged(score))
        end(tmp_path, num, score=score)
        found.ended(num)
    num, _ = next(jobs)
    with elsewhere(num, {}, 1000.0, lambda new, names: True, PrunerThere(inbox, num)) as there:
        assert pruner_of(there / str(num)).on_evaluation(100, judged(1.8))  # the median of the others is 1.5
    assert pruner_of(there / str(num)) is None
    assert not Inbox(tmp_path / "a sweep without a search").prune(0, 100, judged(9.0))


@pytest.mark.parametrize("settings", [{"prune": False}, {"seeds": 2}])
def test_no_run_is_watched_without_pruning_or_with_several_seeds(tmp_path, settings):
    next(search(tmp_path, **settings).jobs())
    assert pruner_of(tmp_path / "0") is None


def test_a_trial_of_several_seeds_is_judged_by_their_mean(tmp_path):
    found = search(tmp_path, seeds=3, num_trials=2)
    asked = []
    for num, overrides in found.jobs():
        asked.append((num, values_of(overrides)["seed"]))
        end(tmp_path, num, score=float(num))
        found.ended(num)
    assert asked == [(0, "4"), (1, "5"), (2, "6"), (3, "4"), (4, "5"), (5, "6")]
    assert [trial.value for trial in load_study(tmp_path).trials] == [1.0, 4.0]


def test_batches_are_of_as_many_trials_as_run_at_once(tmp_path):
    found = search(tmp_path, num_trials=5, parallel=2)
    assert [(first, len(batch)) for first, batch in found.batches()] == [(0, 2), (2, 2), (4, 1)]


def test_failed_runs_and_unmeasured_ones_are_no_results(tmp_path):
    found = search(tmp_path, num_trials=3)
    for num, _ in found.jobs():
        end(tmp_path, num, **({"status": "failed"} if num == 0 else {"score": None} if num == 1 else {"score": 2.0}))
        found.ended(num)
    assert [trial.state.name for trial in load_study(tmp_path).trials] == ["FAIL", "FAIL", "COMPLETE"]


def test_the_budget_in_minutes_ends_it(tmp_path):
    assert list(search(tmp_path, minutes=0.0, num_trials=None).jobs()) == []


def test_what_cannot_be_searched_is_said_in_one_line(tmp_path):
    for name, arguments, message in (
        ("a", {"space": {}}, "has nothing to search: give a key a range"),
        (
            "b",
            {"space": {"seed": SPACE["size"]}, "default": {"seed": 0}},
            "seed cannot be searched, a good one would be luck: give seeds=N",
        ),
        (
            "c",
            {"space": {"x": {"low": 2.0, "high": 1.0, "step": None, "log": False}}, "default": {"x": 1.0}},
            "cannot search x in",
        ),
        ("d", {"direction": "minimise"}, "hydra.sweeper.direction is 'minimise': did you mean 'minimize'?"),
        ("e", {"num_trials": 0}, "hydra.sweeper.num_trials is 0"),
        ("f", {"num_trials": None}, "the search would never end"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            search(tmp_path / name, **arguments)
    found = search(tmp_path / "g", metric="eror_vx")
    num, _ = next(found.jobs())
    end(tmp_path / "g", num, score=1.0, error_vx=0.1)
    with pytest.raises(InputError, match="hydra.sweeper.metric is 'eror_vx': did you mean 'error_vx'?"):
        found.ended(num)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_search_on_the_command_line_prunes_reports_and_goes_on(tmp_path):
    small = [
        "+robot=go2",
        "env.num_envs=16",
        "trainer.rollout_steps=8",
        "ppo.num_epochs=1",
        "ppo.num_minibatches=2",
        "trainer.evaluation_envs=4",
        "trainer.evaluation_s=2",
        "trainer.final_evaluation_envs=4",
        "trainer.final_evaluation_s=2",
        "policy.hidden=[16]",
        "trainer.total_steps=640",
        "trainer.evaluate_every=128",
        "hydra/sweeper=optuna",
        "hydra.sweeper.full_trials=2",
        "hydra.sweep.dir=s",
        "ppo.learning_rate=tag(log,interval(1e-4,1e-1))",
        "ppo.num_epochs=range(1,4)",
        "policy.hidden=[16],[16,16]",
    ]

    def command(*more: str) -> str:
        given = [argument for argument in small if argument not in ("ppo.num_epochs=1", "policy.hidden=[16]")]
        done = subprocess.run(
            [sys.executable, "-m", "train", "-m", *given, *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("hydra.sweeper.num_trials=4")
    times = [(tmp_path / "s" / str(run) / "result.json").stat().st_mtime_ns for run in range(4)]
    shown = command("hydra.sweeper.num_trials=7")
    assert [
        (tmp_path / "s" / str(run) / "result.json").stat().st_mtime_ns for run in range(4)
    ] == times  # not run again
    results = [json.loads((tmp_path / "s" / str(run) / "result.json").read_text()) for run in range(7)]
    states = [trial.state.name for trial in load_study(tmp_path / "s").trials]
    assert [{"finished": "COMPLETE", "pruned": "PRUNED"}[result["status"]] for result in results] == states
    assert states.count("PRUNED") >= 1 and states[:2] == ["COMPLETE", "COMPLETE"]
    assert "Search: 7 trials" in shown and "Best: score" in shown and "failed" not in shown.rpartition("Search:")[2]
