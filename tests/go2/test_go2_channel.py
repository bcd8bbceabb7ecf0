"""What the real wiring hands in: the guard's socket, the doorbell's pipe, the watch on a process."""

import math
import os
import socket
import time

import pytest

from rfx.drivers.go2.rules.channel import SocketChannel
from rfx.drivers.go2.rules.mailbox import Doorbell
from rfx.drivers.realtime import ProcessWatch


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield SocketChannel(ours), SocketChannel(theirs), theirs


def test_a_channel_tells_nothing_yet_from_closed(ends):
    ours, theirs, socket_ = ends
    assert ours.receive(0.0) is None
    assert theirs.send(b"ab") and theirs.send(b"c") and ours.receive(math.inf) == b"abc"
    socket_.close()
    assert ours.receive(math.inf) == b"" and not ours.send(b"b")


def test_a_channel_whose_other_end_does_not_read_never_waits(ends):
    ours, _, _ = ends
    assert all(ours.send(bytes(100_000)) for _ in range(100))


def test_an_end_that_left_without_reading_has_left(ends):
    ours, theirs, socket_ = ends
    ours.send(b"unread")
    socket_.close()
    assert ours.receive(math.inf) == b"", "the system says that the connection was reset"


def test_a_doorbell_wakes_once_and_is_quiet_when_nobody_can_ring_it():
    theirs, ours = os.pipe()
    waiting, bell = Doorbell(theirs), Doorbell(ours)
    assert not waiting.wait_until(time.monotonic() + 0.001)
    bell.ring(), bell.ring()
    assert waiting.wait_until(time.monotonic() + 60.0) and not waiting.wait_until(0.0)
    bell.close()
    waiting.wait_until(time.monotonic() + 60.0)  # returns, as there is nobody
    assert not waiting.wait_until(0.0)
    os.close(theirs)


def test_a_watch_knows_its_parent():
    watch = ProcessWatch(os.getppid())
    assert watch.is_alive() and not watch.is_stopped()
    other = ProcessWatch(os.getpid())  # no process is its own parent
    assert not other.is_alive()
    other.kill()  # nor is it killed
