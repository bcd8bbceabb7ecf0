"""The prediction of larger machines, against numbers worked by hand; and how the bench of workers compares and takes
its parts.
"""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest

from measure.claims import cell, read_groups
from measure.prediction import Parts, cores_at_limit, main, predict, predict_data_parallel, predictions
from measure.scale import compared, first_rows, read_arguments
from train.runs.fingerprint import ROOT

# Round numbers: 10 steps an iteration; 100 us of physics and 20 us of Python a step, 1 ms of Python beside; 8 us to
# learn, 2 us to take in.
PARTS = Parts(
    rollout_steps=10,
    physics_s=100e-6,
    python_row_s=20e-6,
    python_step_s=1e-3,
    update_s=8e-6,
    take_in_s=2e-6,
    latency_s=0.01,
    rollout_bytes=500.0,
    weights_bytes=1e6,
    num_gradients=20,
    gradient_bytes=1e6,
)


def test_an_iteration_is_predicted_as_by_hand():
    """64 cores, 6400 environments, 100 a core: 10 x (1 ms + 100 x 120 us) = 130 ms. 64,000 steps of 500 bytes and 8
    machines' weights are 40 MB, 0.32 s at 1 Gbit/s, and 10 ms. 64,000 x 10 us = 0.64 s. 64,000 steps in 1.1 s."""
    found = predict(PARTS, 6400, 64, 1.0)
    assert (found.collect_s, found.travel_s, found.learner_s) == pytest.approx((0.13, 0.33, 0.64))
    assert found.num_steps == 64_000 and found.steps_per_s == pytest.approx(64_000 / 1.1)
    assert predict(PARTS, 6400, 64, 10.0).travel_s == pytest.approx(0.042) and predict(
        PARTS, 6400, 64, math.inf
    ).travel_s == pytest.approx(0.01)
    assert predict(PARTS, 65, 64, 1.0).collect_s == pytest.approx(10 * (1e-3 + 2 * 120e-6))  # somebody has two
    assert predict(PARTS, 900, 9, 1.0).travel_s == pytest.approx(
        0.01 + 8e-9 * (9000 * 500 + 2e6)
    )  # nine cores are two machines


def test_the_learner_limits_where_it_takes_as_long_as_all_cores():
    """120 us by how many cores is 10 us and 500 bytes: 4 us at 1 Gbit/s, 0.4 us at 10."""
    assert cores_at_limit(PARTS, 1.0) == pytest.approx(120 / 14) and cores_at_limit(PARTS, 10.0) == pytest.approx(
        120 / 10.4
    )
    few = dataclasses.replace(PARTS, python_step_s=0.0, latency_s=0.0, weights_bytes=0.0)
    at_limit = predict(few, 12_000, 12, math.inf)  # 120 us / 10 us
    assert at_limit.collect_s == pytest.approx(at_limit.learner_s)
    assert predict(few, 24_000, 24, math.inf).steps_per_s / at_limit.steps_per_s == pytest.approx(4 / 3)


def test_learners_that_share_the_work_pay_for_their_sums():
    """8 learners: 0.64 s / 8, and 20 gradients of 14 messages of 0.1 ms and 125 kB, 1 ms at 1 Gbit/s: 20 x 14 x 1.1 ms.

    No rollout travels.
    """
    found = predict_data_parallel(PARTS, 6400, 64, 1.0, 8)
    assert (found.collect_s, found.travel_s, found.learner_s) == pytest.approx((0.13, 0.01, 0.08 + 0.308))
    assert predict_data_parallel(PARTS, 6400, 64, 1.0, 1).learner_s == pytest.approx(0.64)


def test_the_tables_of_the_docs_find_what_they_show(tmp_path, monkeypatch):
    """Every cell of both groups can be filled in from what the commands write."""
    measured = tmp_path / "bench.json"
    rounds = [
        (
            {
                "time/env_steps_per_s": 80.0 + i,
                "time/collect_s": 0.3,
                "time/update_s": 0.2,
                "time/ray_s": 0.02,
                "time/ray_send_s": 0.001,
                "time/ray_travel_s": 0.015,
                "time/ray_take_in_s": 0.004,
                "scale/received_mb": 9.0,
            },
            {"time/env_steps_per_s": 100.0},
        )
        for i in (0, 10, 2)
    ]
    figures = {f"workers_{num}": compared(num, max(num, 2), rounds) for num in (1, 2, 4)}
    assert (
        figures["workers_1"]["cost"] == pytest.approx(0.18) and figures["workers_1"]["steps_per_s"] == 82.0
    )  # medians
    assert [figures[f"workers_{num}"]["threads"] for num in (1, 2, 4)] == [2, 1, 1] and figures["workers_2"][
        "ray_ms"
    ] == pytest.approx(20.0)
    measured.write_text(json.dumps(figures | {"parts": dataclasses.asdict(PARTS)}))
    monkeypatch.setattr(sys, "argv", ["", f"parts={measured}", f"output={tmp_path / 'model.json'}"])
    main()
    model = json.loads((tmp_path / "model.json").read_text())
    assert model == json.loads(json.dumps(predictions(PARTS)))
    groups = read_groups(ROOT / "measure" / "figures.yaml")
    for name, values in (
        ("scale", {"bench": figures | {"measured_of_predicted": {"workers_2": 0.97}}}),
        ("prediction", {"model": model}),
    ):
        for line in groups[name].lines:
            assert all("{" not in cell(text, values) for text in line)
    assert model["grow"]["64_cores"]["10_gbit"]["steps_per_s"] == predict(PARTS, 64 * 512, 64, 10).steps_per_s


def test_what_is_no_measurement_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "other.json").write_text("{}")
    for arguments, message in (
        ([f"parts={tmp_path / 'other.json'}"], "it has no parts"),
        ([], "got nothing; expected parts=FILE"),
    ):
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        with pytest.raises(SystemExit):
            main()
        assert message in capsys.readouterr().err
    assert read_arguments(["robot=x", "workers=[1,8]", "rounds=2"]).workers == (1, 8)
    for arguments, message in (
        (["robot=x", "rounds=0"], "rounds is 0"),
        (["workers"], "expected key=value"),
        (["robot=x", "workers=[]"], "list of numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arguments(arguments)


def test_few_environments_begin_as_the_first_of_many():
    state = {"env.x": np.arange(6), "episodes.return": np.arange(6.0), "learner.w": np.arange(6), "steps": 3}
    found = first_rows(state, 2)
    assert {name: np.size(value) for name, value in found.items()} == {
        "env.x": 2,
        "episodes.return": 2,
        "learner.w": 6,
        "steps": 1,
    }
