"""metrics.csv, which is whole whatever happens to it, and the loggers beside it."""

import csv
import math
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_run import make_config

from train.runs import loggers
from train.runs.loggers import TensorBoardLogger, find_loggers
from train.runs.metrics import METRICS, MetricsTable, read_curves, read_metrics


def rows(folder: Path) -> list[dict]:
    with open(folder / METRICS, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_iteration_and_columns_that_appear_later(tmp_path, monkeypatch):
    monkeypatch.setattr("train.runs.metrics.time.time", iter([5.0, 6.5, 7.0]).__next__)
    table = MetricsTable(tmp_path)
    table.log(10, {"a": 0.1, "with, comma": math.nan})
    table.log(20, {"late": 1e-30, "a": 0.3})
    table.log(20, {"late": 2.0})
    assert (
        tmp_path / METRICS
    ).read_text() == 'steps,time,a,"with, comma",late\n10,5.0,0.1,nan\n20,6.5,0.3,,1e-30\n20,7.0,,,2.0\n'
    assert [row["late"] for row in rows(tmp_path)] == [None, "1e-30", "2.0"]
    np.testing.assert_array_equal(read_metrics(tmp_path, "a"), [[10, 0.1], [20, 0.3]])
    np.testing.assert_array_equal(read_curves(tmp_path)["late"], [[20, 6.5, 1e-30], [20, 7.0, 2.0]])
    assert np.isnan(read_metrics(tmp_path, "with, comma")[0, 1])
    assert read_metrics(tmp_path, "none").shape == (0, 2) and read_curves(tmp_path / "none") == {}


def test_a_run_that_goes_on_has_the_rows_of_its_checkpoint(tmp_path):
    """Also where several rows have the steps of the checkpoint: at the end come an iteration and an evaluation."""
    table = MetricsTable(tmp_path)
    for steps in (1, 2, 3, 3):
        table.log(steps, {"a": float(steps)})
    assert table.num_rows == 4
    again = MetricsTable(tmp_path, num_rows=3)
    again.log(4, {"b": 4.0})
    assert [(row["steps"], row["a"], row["b"]) for row in rows(tmp_path)] == [
        ("1", "1.0", None),
        ("2", "2.0", None),
        ("3", "3.0", None),
        ("4", "", "4.0"),
    ]
    assert again.num_rows == 4 and MetricsTable(tmp_path, num_rows=9).num_rows == 4
    MetricsTable(tmp_path)
    assert rows(tmp_path) == []  # a run that begins


def test_a_row_that_was_cut_short_by_a_kill_is_passed_over(tmp_path):
    table = MetricsTable(tmp_path)
    table.log(100, {"a": 1.0})
    with open(tmp_path / METRICS, "a") as file:
        file.write("20")  # of 200
    np.testing.assert_array_equal(read_metrics(tmp_path, "a"), [[100, 1.0]])
    MetricsTable(tmp_path, num_rows=2).log(200, {"a": 2.0})
    np.testing.assert_array_equal(read_metrics(tmp_path, "a"), [[100, 1.0], [200, 2.0]])


def test_a_row_that_the_disk_refuses_leaves_whole_ones(tmp_path):
    """The limit on the size of files lets a part of the row through. A new column needs a new file: refused as well."""
    table = MetricsTable(tmp_path)
    table.log(1, {"a": 1.0})
    size, limit = (tmp_path / METRICS).stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4, limit[1]))
        for metrics in ({"a": 2.0}, {"new": 2.0}):
            with pytest.raises(OSError):
                table.log(2, metrics)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    np.testing.assert_array_equal(read_metrics(tmp_path, "a"), [[1, 1.0]])
    table.log(3, {"new": 3.0, "a": 3.5})
    np.testing.assert_array_equal(read_metrics(tmp_path, "a"), [[1, 1.0], [3, 3.5]])
    np.testing.assert_array_equal(read_metrics(tmp_path, "new"), [[3, 3.0]])


def test_a_table_that_is_removed_begins_again(tmp_path):
    table = MetricsTable(tmp_path / "run")
    table.log(1, {"a": 1.0, "b": 1.0})
    (tmp_path / "run" / METRICS).unlink()
    (tmp_path / "run").rmdir()
    table.log(2, {"b": 2.0})
    assert [(row["steps"], row["a"], row["b"]) for row in rows(tmp_path / "run")] == [("2", "", "2.0")]


def tensorboard(folder: Path) -> list[tuple]:
    """What TensorBoard shows of the folder: (step, tag, value). A session's start forgets later steps."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.session_log.status == SessionLog.START:
                shown = [scalar for scalar in shown if scalar[0] < event.step]
            shown += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return shown


def test_tensorboard_forgets_what_a_run_that_goes_on_does_again(tmp_path):
    logger = TensorBoardLogger(tmp_path, None, 0)
    for steps in (10, 20, 30):
        logger.log(steps, {"a": steps / 2})
    logger.close()
    again = TensorBoardLogger(tmp_path, None, 20)
    again.log(30, {"a": 1.0, "b": 2.0})
    again.close()
    assert tensorboard(tmp_path) == [(10, "a", 5.0), (20, "a", 10.0), (30, "a", 1.0), (30, "b", 2.0)]
    assert len(list(tmp_path.glob("events*"))) == 2


def test_tensorboard_goes_on_in_a_new_file_where_its_own_is_gone_or_refused(tmp_path, monkeypatch):
    logger = TensorBoardLogger(tmp_path / "run", None, 0)
    logger.log(10, {"a": 1.0})
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    logger.log(20, {"a": 2.0})

    def refuse():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loggers, "FLUSH_EVERY_S", 0.0)
    monkeypatch.setattr(logger._writer, "flush", refuse)
    with pytest.raises(OSError):
        logger.log(30, {"a": 3.0})
    logger.log(40, {"a": 4.0})
    logger.close()
    assert {(20, "a", 2.0), (40, "a", 4.0)} <= {*tensorboard(tmp_path / "run")}


def test_loggers_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "own_loggers.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_loggers(("csv",)) == [] and find_loggers(("tensorboard", "csv")) == [TensorBoardLogger]
    assert [found.__name__ for found in find_loggers(("own_loggers:Mine",))] == ["Mine"]
    for name, message in (
        ("tensorbord", "tensorboard"),
        ("own_loggers:Mien", "Mine"),
        ("nowhere:Mine", "nowhere"),
        (":Mine", "Mine"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            find_loggers((name,))
        assert "\n" not in str(error.value)
    monkeypatch.setattr(loggers, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    with pytest.raises(ModuleNotFoundError, match=r"\[wandb\]"):
        find_loggers(("wandb",))


def test_the_configuration_names_one_logger_or_several():
    assert make_config(logger="csv").loggers == ("csv",) and make_config().loggers == ("tensorboard",)
    assert make_config(logger=["csv", "wandb", "csv"]).loggers == ("csv", "wandb")
    with pytest.raises(ValueError, match="logger"):
        make_config(logger=3)


WANDB = """
import sys
from pathlib import Path
from tiny_run import make_config
from train.runs.loggers import WandbLogger
for steps in (0, 10):
    try:
        logger = WandbLogger(Path(sys.argv[1]), make_config(), steps)
    except ValueError as error:
        raise SystemExit(f"refused: {error}")
    logger.log(steps + 10, {"episode/error_vx": 0.25})
    logger.close()
"""


def wandb(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A process that logs to wandb, and goes on with that run."""
    path = os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1])))
    return subprocess.run(
        [sys.executable, "-c", WANDB, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "HOME": str(folder), **environment},
    )


@pytest.mark.e2e
def test_wandb_offline_writes_one_run_into_the_folder_whether_it_goes_on_or_not(tmp_path):
    pytest.importorskip("wandb")
    done = wandb(tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0 and done.stdout == "", done.stderr
    name = (tmp_path / "wandb_id").read_text()
    first, *_ = found = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert 1 <= len(found) <= 2 and b"episode/error_vx" in first.read_bytes()


@pytest.mark.e2e
def test_wandb_without_an_account_is_refused_in_one_line(tmp_path):
    pytest.importorskip("wandb")
    done = wandb(tmp_path, WANDB_MODE="online", WANDB_API_KEY="")
    (refusal,) = [line for line in done.stderr.splitlines() if line.startswith("refused: ")]
    assert done.returncode == 1 and "WANDB_MODE=offline" in refusal and "Traceback" not in done.stderr
