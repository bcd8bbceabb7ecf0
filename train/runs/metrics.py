"""Metrics as TensorBoard scalars, under the tags that the code and the configs use."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


class MetricsWriter:
    """Appends scalars to one file of events in folder: `tensorboard --logdir runs` shows them.

    Use as a context manager.

    Events are written at once and not by a thread, so that a full disk is an OSError here. A run that goes on from a
    checkpoint gives the position that the events had then: the file is cut there and continued, or begun anew where it
    is gone. Raises OSError.
    """

    def __init__(self, folder: Path, position: Mapping[str, Any] | None = None):
        self._folder, self._events = folder, _tensorboard()
        path, size = (folder / position["file"], position["bytes"]) if position else (None, 0)
        if path and path.is_file() and path.stat().st_size >= size:
            self._path, self._size, self._file = path, size, open(path, "ab", buffering=0)
            self._file.truncate(size)
        else:
            self._begin()

    def write(self, metrics: Mapping[str, float], steps: int) -> None:
        """Write the metrics of one iteration; steps is the number of environment steps so far.

        Raises OSError, and then writes nothing.
        """
        if not self._path.exists():  # removed while the run went on
            self._begin()
        event = self._events.Event(step=steps, wall_time=time.time())
        for tag, value in metrics.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._append(event)

    def position(self) -> dict[str, Any]:
        """The file's name and its length, all of it on disk. Raises OSError."""
        os.fsync(self._file.fileno())
        return {"file": self._path.name, "bytes": self._size}

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self._file, self._size = open(self._path, "xb", buffering=0), 0
        self._append(self._events.Event(file_version="brain.Event:2", wall_time=time.time()))

    def _append(self, event: Any) -> None:
        """One record: length, its checksum, event, its checksum (TensorFlow's TFRecord format)."""
        data, header = event.SerializeToString(), struct.pack("<Q", event.ByteSize())
        checksum = self._events.masked_crc32c
        record = memoryview(header + struct.pack("<I", checksum(header)) + data + struct.pack("<I", checksum(data)))
        try:
            written = 0
            while written < len(record):
                written += self._file.write(record[written:])
        except OSError:
            self._file.truncate(self._size)  # a part of a record would hide those after it
            raise
        self._size += len(record)


def read_metrics(folder: Path, tag: str) -> np.ndarray:
    """Steps and values (n, 2) of one tag in a run's events, in the order of steps; what is cut short at a file's end is
    passed over.
    """
    return np.array(sorted((step, value) for step, _, found, value in _read(folder) if found == tag), float).reshape(
        -1, 2
    )


def read_curves(folder: Path) -> dict[str, np.ndarray]:
    """Steps, seconds since the Epoch and values (n, 3) of every tag in a run's events, in the order of steps."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for step, wall_time, tag, value in _read(folder):
        points.setdefault(tag, []).append((step, wall_time, value))
    return {tag: np.array(sorted(values), float) for tag, values in points.items()}


def _read(folder: Path) -> Iterator[tuple[int, float, str, float]]:
    event_type = _tensorboard().Event
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            if at + 16 + size > len(data):
                break
            event = event_type.FromString(data[at + 12 : at + 12 + size])
            yield from ((event.step, event.wall_time, value.tag, value.simple_value) for value in event.summary.value)
            at += 16 + size


def _tensorboard() -> Any:
    """tensorboardX's event and checksum, imported without torch: where torch is installed that import alone takes 1.5
    s, and is not used.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # an import of torch now raises ImportError, which tensorboardX expects
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c
    finally:
        if absent:
            del sys.modules["torch"]
    return SimpleNamespace(Event=Event, masked_crc32c=masked_crc32c)
