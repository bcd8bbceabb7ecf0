"""The page about a sweep, and about any folders of runs: what it says and shows, from runs with known numbers."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("matplotlib") is None:
    pytest.skip("matplotlib is not installed: pip install -e '.[viz]'", allow_module_level=True)

from test_sweep import write_run

from train.runs.metrics import MetricsTable, read_metrics
from train.sweeps import sweep_report
from train.sweeps.curves import curves_of, thinned
from train.sweeps.importance import explained
from train.sweeps.sweep_report import gather, write_page
from train.task.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def with_curves(folder: Path, *, steps: int = 5) -> Path:
    table = MetricsTable(folder)
    for step in range(1, steps + 1):
        table.log(1000 * step, {"episode/error_vx": 1.0 / step, "evaluation/score": 2.0 / step})
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two points of three seeds; gamma 0.9 is better, and its seed 1 is best. A run failed."""
    folder = tmp_path / "sweep"
    for num, (gamma, seed, error) in enumerate(
        [(0.9, 0, 0.2), (0.9, 1, 0.1), (0.9, 2, 0.3), (0.99, 0, 0.5), (0.99, 1, 0.5)]
    ):
        with_curves(write_run(folder, num, [f"ppo.gamma={gamma}", f"seed={seed}"], error_vx=error, score=2 * error))
    failed = write_run(folder, 5, ["ppo.gamma=0.99", "seed=2"], status="failed")
    result = json.loads((failed / "result.json").read_text()) | {"error": "it <broke>", "wall_s": None}
    (failed / "result.json").write_text(json.dumps(result))
    return folder


def text_of(path: Path) -> str:
    return re.sub(r"base64,[^\"]*", "base64,", path.read_text())


def test_the_page_has_tables_curves_importance_and_video_and_needs_nothing_else(sweep, monkeypatch):
    filmed = []
    monkeypatch.setattr(sweep_report, "film_of", lambda path: filmed.append(path) or (b"a film", ""))
    text = text_of(write_page([sweep], sweep / "report.html"))
    assert "<title>" in text and "6 runs: 5 finished, 1 failed. Best by score: run 1." in text
    assert re.search(
        r"<td class=\"met\">0 1 2</td><td>0.9</td><td class=\"\">0.200 ± 0.248</td><td class=\"met\">0.400 ± 0.497</td>",
        text,
    )
    assert re.search(
        r"<td class=\"met\">1</td><td>0.9</td><td>1</td><td class=\"\">0.100</td><td class=\"met\">0.200</td>", text
    )
    assert "failed: it &lt;broke&gt;" in text
    assert [
        name
        for name in ("Points", "Runs", "Curves", "Keys", "Importance", "The best policy")
        if f"<h2>{name}</h2>" not in text
    ] == []
    assert (
        text.count("data:image/png;base64,") == 3
        and text.count("data:video/mp4;base64,") == 1
        and filmed == [sweep / "1" / "policy"]
    )
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_the_best_run_is_marked_in_what_it_is_best_by_and_not_where_another_is_better(tmp_path):
    write_run(tmp_path / "sweep", 0, ["ppo.gamma=0.9"], error_vx=0.3, score=0.1)
    write_run(tmp_path / "sweep", 1, ["ppo.gamma=0.99"], error_vx=0.2, score=0.4)
    text = text_of(write_page([tmp_path / "sweep"], tmp_path / "report.html", video=False))
    assert (
        '<td class="met">0.100</td>' in text
        and '<td class="met">0.300</td>' not in text
        and '<td class="met">0.200</td>' not in text
    )


def test_a_page_that_cannot_be_written_is_told_before_anything_is_drawn(sweep, monkeypatch):
    monkeypatch.setattr(sweep_report, "film_of", lambda path: pytest.fail("drawn in vain"))
    with pytest.raises(OSError, match="/proc/none"):
        write_page([sweep], Path("/proc/none/report.html"))


def test_without_a_film_the_page_says_why(sweep, monkeypatch):
    text = text_of(write_page([sweep], sweep / "report.html"))  # the policy's folder is not there
    assert "No video: " in text and "data:video" not in text
    assert "The best policy" not in text_of(write_page([sweep], sweep / "report.html", video=False))


def test_runs_of_any_folders_stand_side_by_side(sweep, tmp_path):
    alone = with_curves(write_run(tmp_path, 7, ["ppo.gamma=0.95"], error_vx=0.05, score=0.1))
    runs = gather([sweep, alone])
    assert [row["run"] for row in runs.rows] == [*(f"sweep/{num}" for num in range(6)), "7"] and runs.best == "7"
    assert runs.folders["sweep/1"] == sweep / "1" and runs.folders["7"] == alone
    with pytest.raises(InputError, match="holds no run that has ended"):
        gather([tmp_path / "nothing"])


def test_a_run_that_was_not_told_a_key_has_it_from_its_configuration(tmp_path):
    for num, overrides in ((0, []), (1, ["ppo.gamma=0.9", "policy.hidden=[64,64]"])):
        folder = write_run(tmp_path / "sweep", num, overrides, error_vx=0.1, score=0.2)
        (folder / "run.json").write_text(json.dumps({"config": {"ppo.gamma": 0.98, "policy.hidden": [128, 128]}}))
    rows = gather([tmp_path / "sweep"]).rows
    assert [(row["ppo.gamma"], row["policy.hidden"]) for row in rows] == [("0.98", "[128,128]"), ("0.9", "[64,64]")]


def test_importance_is_the_share_of_variance_worked_by_hand():
    """Scores 1, 3 at a = 0 and 5, 7 at a = 1: mean 4, total 9+1+1+9 = 20, between 2*(2-4)^2 + 2*(6-4)^2 = 16; of b,
    pairs (1,5), (3,7): 2+2 = 4.
    """
    rows = [
        {"a": a, "b": b, "c": i, "score": score}
        for i, (a, b, score) in enumerate([(0, 0, 1.0), (0, 1, 3.0), (1, 0, 5.0), (1, 1, 7.0)])
    ]
    assert explained([*rows, {"a": 0, "b": 0, "c": 9, "score": None}], ["a", "b", "c"], "score") == pytest.approx(
        {"a": 0.8, "b": 0.2}
    )
    assert (
        explained(rows[:1], ["a"], "score") == {} == explained([row | {"score": 1.0} for row in rows], ["a"], "score")
    )


def test_curves_have_steps_minutes_and_values_and_interruptions_are_left_out(tmp_path, monkeypatch):
    """Iterations end 60, 120 and 180 s after the beginning; then nothing for an hour, and two more after the run went
    on.
    """
    times = iter([1060.0, 1120.0, 1180.0, 4860.0, 4920.0])
    monkeypatch.setattr("train.runs.metrics.time.time", lambda: next(times))
    table = MetricsTable(tmp_path)
    for step in range(5):
        table.log(step, {"a": float(step)})
    from datetime import datetime, timezone

    stamp = lambda seconds: datetime.fromtimestamp(seconds, timezone.utc).isoformat()  # noqa: E731
    (tmp_path / "run.json").write_text(json.dumps({"began": stamp(1000), "resumed": [{"time": stamp(4800)}]}))
    found = curves_of(tmp_path)["a"]
    np.testing.assert_allclose(found, [[0, 1, 0], [1, 2, 1], [2, 3, 2], [3, 4, 3], [4, 5, 4]])
    assert (
        read_metrics(tmp_path, "a").tolist() == [[step, step] for step in range(5)]
        and curves_of(tmp_path / "none") == {}
    )


def test_long_curves_are_thinned_by_means():
    values = np.stack([np.arange(1000.0)] * 3, axis=1)
    found = thinned(values)
    assert found.shape == (200, 3) and found[0, 0] == 2.0 and math.isclose(found[:, 2].mean(), values[:, 2].mean())
    assert thinned(values[:50]) is not None and len(thinned(values[:50])) == 50


@pytest.mark.e2e
def test_the_command_writes_the_page_and_says_what_is_wrong_in_one_line(sweep, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "train.report", str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    monkey = subprocess.run(
        [sys.executable, "-m", "train.report", str(sweep), "--no-video", "--output", str(tmp_path / "page.html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        monkey.returncode == 0
        and monkey.stdout.strip() == str(tmp_path / "page.html")
        and (tmp_path / "page.html").is_file()
    )
