"""Sweeps: points that run several times, their means and intervals against numbers by hand, and a sweep that is given
again.
"""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from train.sweeps.points import every_seed, points, spread, t_quantile
from train.sweeps.sweep import finish_sweep, short
from train.task.errors import InputError

FIGURE = {"name": "error_vx", "label": "error vx", "unit": "m/s", "format": ".3f", "main": True}


def write_run(sweep: Path, num: int, overrides: list[str], status: str = "finished", **evaluation: float) -> Path:
    """The folder of a run that ended, as far as tables read it."""
    result = {
        "status": status,
        "overrides": overrides,
        "evaluation": evaluation or None,
        "figures": [FIGURE] if evaluation else [],
        "wall_s": 2.0,
        "env_steps_per_s": 1000.0,
        "policy": "elsewhere/policy" if evaluation else None,
    }
    (sweep / str(num)).mkdir(parents=True)
    (sweep / str(num) / "result.json").write_text(json.dumps(result))
    return sweep / str(num)


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (100, 1.984)],
)
def test_the_quantile_of_t_is_the_published_one(degrees, published):
    """Table of the 97.5th percentile, in any textbook; three decimals."""
    assert t_quantile(degrees) == pytest.approx(published, abs=5e-4)


def test_mean_and_interval_are_those_worked_by_hand():
    """1 to 5: mean 3, standard deviation sqrt(10 / 4) = 1.5811, over sqrt(5) 0.7071; times 2.7764 is 1.9632."""
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0, None, math.nan])
    assert (found.num, found.mean) == (5, 3.0)
    assert found.low == pytest.approx(3.0 - 1.9632, abs=1e-4) and found.high == pytest.approx(3.0 + 1.9632, abs=1e-4)
    one = spread([2.0])
    assert (one.num, one.mean) == (1, 2.0) and math.isnan(one.low) and math.isnan(spread([]).mean)


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    import numpy as np

    rng = np.random.default_rng(0)
    samples = [spread(list(rng.normal(7.0, 3.0, 5))) for _ in range(2000)]
    assert sum(found.low <= 7.0 <= found.high for found in samples) / 2000 == pytest.approx(
        0.95, abs=0.015
    )  # three standard errors


def test_seeds_are_added_to_every_point():
    assert every_seed(["+robot=go2", "a=1,2", "seeds=3"], 0, 3) == ["+robot=go2", "a=1,2", "seeds=3", "seed=0,1,2"]
    assert every_seed(["seed=7", "a=1,2"], 7, 2) == ["a=1,2", "seed=7,8"]
    assert every_seed(["seed=1,2"], 1, 1) == ["seed=1,2"]
    with pytest.raises(InputError, match="seeds=2 gives every point the seeds from seed on, and seed=1,2 several"):
        every_seed(["seed=1,2"], 1, 2)
    for wrong in (0, -1, 1.5, "many"):
        with pytest.raises(InputError, match="it must be how often each point of a sweep runs"):
            every_seed([], 0, wrong)


def test_the_table_and_the_csv_have_means_and_intervals_of_points(tmp_path):
    """Errors 0.1, 0.2, 0.3 at gamma 0.9: mean 0.2, half width 4.3027 * 0.1 / sqrt(3) = 0.2484; the failed run of the
    other point counts not.
    """
    for num, (gamma, seed, error) in enumerate(
        [(0.9, 0, 0.1), (0.9, 1, 0.2), (0.9, 2, 0.3), (0.99, 0, 0.5), (0.99, 1, 0.5)]
    ):
        write_run(tmp_path, num, [f"ppo.gamma={gamma}", f"seed={seed}"], error_vx=error, score=2 * error)
    write_run(tmp_path, 5, ["ppo.gamma=0.99", "seed=2"], status="failed")
    file = io.StringIO()
    assert finish_sweep(tmp_path, Console(file=file, width=120)) == 1
    first, other = csv.DictReader((tmp_path / "points.csv").open())
    assert (first["runs"], first["ppo.gamma"], first["finished"], other["runs"], other["finished"]) == (
        "0 1 2",
        "0.9",
        "3",
        "3 4 5",
        "2",
    )
    assert [float(first[name]) for name in ("error_vx", "error_vx_low", "error_vx_high")] == pytest.approx(
        [0.2, 0.2 - 0.2484, 0.2 + 0.2484], abs=1e-4
    )
    assert [float(first[name]) for name in ("score", "score_low", "score_high")] == pytest.approx(
        [0.4, 0.4 - 0.4968, 0.4 + 0.4968], abs=1e-4
    )
    assert "0.200 ± 0.248" in file.getvalue() and "0.500 ± 0.000" in file.getvalue()
    runs = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["seed"] for row in runs] == ["0", "1", "2", "0", "1", "2"] and runs[0]["policy"] == str(
        tmp_path / "0" / "policy"
    )


def test_without_seeds_there_are_no_points(tmp_path):
    for num in range(2):
        write_run(tmp_path, num, [f"a={num}"], error_vx=0.1, score=0.1)
    finish_sweep(tmp_path, Console(file=io.StringIO()))
    assert (tmp_path / "sweep.csv").is_file() and not (tmp_path / "points.csv").exists()


def test_points_are_what_differs_in_its_seed_alone():
    rows = [{"a": a, "seed": seed, "b": 1} for seed in (0, 1) for a in (5, 6)]
    assert points(rows, ["a", "seed"]) == [[rows[0], rows[2]], [rows[1], rows[3]]]


def test_long_numbers_are_short_in_tables():
    assert [short(value) for value in ("0.0026938471", "0.98", "[128,128,128]", "1e-3")] == [
        "0.002694",
        "0.98",
        "[128,128,128]",
        "1e-3",
    ]
