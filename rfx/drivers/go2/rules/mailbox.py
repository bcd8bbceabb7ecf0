"""Shared memory between the policy's process and the sender's; it holds the newest record of each direction.

Each record has a sequence number and a checksum. A reader recognizes a half-written record and keeps its previous one.
So neither side ever waits for the other, on any processor, even if a writer dies in the middle of a record.
"""

from __future__ import annotations

import mmap
import os
import select
import tempfile
import threading
import time
import zlib
from enum import IntEnum
from typing import Protocol

import numpy as np

from rfx.drivers.realtime import sleep_until
from rfx.robot.config import RobotConfig

MAX_TRIES = 50
REASON_SIZE = 500
UNKNOWN = -1  # battery charge of a simulator that does not report it
SHARED_FOLDER = "/dev/shm"  # memory, never written to a disk


class Phase(IntEnum):
    """Phases of the sender."""

    CONNECTING = 0  # nothing is sent yet, or damping until the robot has surely met the writer
    IDLE = 1  # damping, ready to stand up
    STANDING_UP = 2
    STANDING = 3
    POLICY = 4  # following targets
    FAULT = 5  # damping, for good
    DONE = 6  # nothing is sent any more
    LYING_DOWN = 7  # to the default pose, then down onto folded legs, then IDLE


class Request(IntEnum):
    """Requests of the driver to the sender."""

    IDLE = 0  # damping, at once
    STAND = 1
    POLICY = 2
    FAIL = 3  # damping for good, with a reason
    CLOSE = 4  # damping for a while, then exit
    LIE = 5  # lie down, then damping


def state_dtype(config: RobotConfig) -> np.dtype:
    """Record from the sender: the robot's last report, and what the sender does."""
    num = len(config.joints)
    return np.dtype(
        [
            ("alive_s", "f8"),
            ("time_s", "f8"),
            ("phase", "u1"),
            ("joint_position", "f4", num),
            ("joint_velocity", "f4", num),
            ("joint_torque", "f4", num),
            ("temperature", "u1", num),
            ("gyroscope", "f4", 3),
            ("accelerometer", "f4", 3),
            ("quaternion", "f4", 4),
            ("remote", "u1", 40),
            ("battery", "i2"),
            ("sent", "f4", num),
            ("kp", "f4"),
            ("kd", "f4"),
            ("latency_s", "f4"),
            ("released", "S40"),
            ("is_restored", "?"),
            ("reason", f"S{REASON_SIZE}"),
        ]
    )


def command_dtype(config: RobotConfig) -> np.dtype:
    """Record from the driver: a request, and with Request.POLICY one policy step."""
    num = len(config.joints)
    return np.dtype(
        [
            ("time_s", "f8"),
            ("step", "u8"),
            ("request", "u1"),
            ("target", "f4", num),
            ("state_time_s", "f8"),
            ("action", "f4", num),
            ("velocity_command", "f4", 3),
            ("observation", "f4", config.max_state_dim),
            ("reason", f"S{REASON_SIZE}"),
        ]
    )


class Mailbox:
    """One direction: the newest record of dtype, at a place in shared memory."""

    def __init__(self, memory: mmap.mmap, offset: int, dtype: np.dtype):
        self._memory, self._offset, self._dtype = memory, offset, dtype
        self._last: np.void = np.zeros(1, dtype)[0]
        self._last_data = b""
        self.number = 0  # sequence number of the record last written or read

    @staticmethod
    def size(dtype: np.dtype) -> int:
        """Size of a mailbox in shared memory, bytes."""
        return dtype.itemsize + 12

    def write(self, record: np.ndarray) -> None:
        """Replace the record."""
        self.number += 1
        data = self.number.to_bytes(8, "little") + record.tobytes()
        self._memory[self._offset : self._offset + self.size(self._dtype)] = data + zlib.crc32(data).to_bytes(
            4, "little"
        )

    def read(self) -> np.void:
        """Return the newest complete record; zeros before the first."""
        for _ in range(MAX_TRIES):
            data = self._memory[self._offset : self._offset + self.size(self._dtype)]
            if data == self._last_data or not any(data[:8]):
                break
            if zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"):
                self.number, self._last_data = int.from_bytes(data[:8], "little"), data
                self._last = np.frombuffer(data, self._dtype, count=1, offset=8)[0]
                break
        return self._last


class Bell(Protocol):
    """The driver's end of a bell that wakes the sender when there is a command."""

    def ring(self) -> None: ...
    def close(self) -> None: ...


class WaitingBell(Protocol):
    """The sender's end of the bell."""

    def wait_until(self, deadline_s: float) -> bool:
        """Return at deadline_s, or earlier with True when the bell was rung."""


class Doorbell:
    """A pipe that wakes the sender when there is a command: `ring` on one end, `wait_until` on the other.

    Any thread may ring and close it.
    """

    def __init__(self, descriptor: int):
        self.descriptor: int | None = descriptor
        # Without the lock, a thread could ring a descriptor that another thread has just closed, and that by then
        # belongs to another file.
        self._lock = threading.Lock()
        os.set_blocking(descriptor, False)

    def ring(self) -> None:
        """Wake the other end, if it still exists."""
        with self._lock:
            try:
                if self.descriptor is not None:
                    os.write(self.descriptor, b"!")
            except (BlockingIOError, BrokenPipeError):  # the pipe is full of rings, or the other end is gone
                pass

    def close(self) -> None:
        """Close this end; later rings do nothing."""
        with self._lock:
            if self.descriptor is not None:
                os.close(self.descriptor)
            self.descriptor = None

    def wait_until(self, deadline_s: float) -> bool:
        """Return at deadline_s of time.monotonic(), or earlier with True when the bell was rung."""
        remaining_s = max(0.0, deadline_s - time.monotonic())
        if self.descriptor is None or not select.select([self.descriptor], [], [], remaining_s)[0]:
            sleep_until(deadline_s, spin_s=0.0)
            return False
        if not os.read(self.descriptor, 4096):  # the other end is closed
            self.descriptor = None
        return True


def create_memory(config: RobotConfig) -> tuple[int, mmap.mmap]:
    """Create unnamed memory for both mailboxes; the system frees it after its last user.

    Returns its file descriptor and the memory.
    """
    with tempfile.TemporaryFile(dir=SHARED_FOLDER if os.path.isdir(SHARED_FOLDER) else None) as file:
        file.truncate(Mailbox.size(state_dtype(config)) + Mailbox.size(command_dtype(config)))
        descriptor = os.dup(file.fileno())
    return descriptor, mmap.mmap(descriptor, 0)


def mailboxes(memory: mmap.mmap, config: RobotConfig) -> tuple[Mailbox, Mailbox]:
    """Return the mailboxes of the sender's states and of the driver's commands."""
    states = Mailbox(memory, 0, state_dtype(config))
    return states, Mailbox(memory, Mailbox.size(state_dtype(config)), command_dtype(config))
