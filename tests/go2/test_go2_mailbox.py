"""Shared memory between two processes: newest record, or the one before; never a mixture."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.mailbox import Doorbell, Mailbox, Request, command_dtype, create_memory, mailboxes

ROOT = Path(__file__).resolve().parents[2]
COMMAND = command_dtype(GO2_CONFIG)


def pair():
    descriptor, memory = create_memory(GO2_CONFIG)
    other = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    return mailboxes(memory, GO2_CONFIG)[1], mailboxes(other, GO2_CONFIG)[1], memory


def command(value: float) -> np.ndarray:
    record = np.zeros((), COMMAND)
    record["target"], record["request"] = value, Request.POLICY
    return record


def test_the_newest_record_is_read_any_number_of_times():
    writer, reader, _ = pair()
    assert reader.read()["target"].tolist() == [0.0] * 12 and reader.number == 0
    for value in (1.0, 2.0, 2.0):
        writer.write(command(value))
    assert [reader.read()["target"][0] for _ in range(2)] == [2.0, 2.0]
    assert reader.number == 3


def test_a_half_written_record_is_not_read():
    writer, reader, memory = pair()
    writer.write(command(1.0))
    reader.read()
    before = bytes(memory)
    writer.write(command(2.0))
    after = bytes(memory)
    changed = [index for index in range(len(after)) if before[index] != after[index]]
    middle = changed[len(changed) // 2]
    memory[:] = after[:middle] + before[middle:]  # the writer died here
    assert reader.read()["target"][0] == 1.0
    memory[:] = after
    assert reader.read()["target"][0] == 2.0


WRITER = """
import mmap, select, sys
import numpy as np
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.mailbox import command_dtype, mailboxes
box = mailboxes(mmap.mmap(int(sys.argv[1]), 0), GO2_CONFIG)[1]
record = np.zeros((), command_dtype(GO2_CONFIG))
value = 0
while value < 1e7:
    value = 1e7 if select.select([sys.stdin], [], [], 0)[0] else value + 1  # until standard input is closed
    record["target"], record["action"], record["observation"] = value, value, value
    box.write(record)
"""


def test_records_of_another_process_are_whole_and_in_order():
    descriptor, memory = create_memory(GO2_CONFIG)
    reader = mailboxes(memory, GO2_CONFIG)[1]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(descriptor)], cwd=ROOT, pass_fds=(descriptor,), stdin=subprocess.PIPE
    )
    os.close(descriptor)
    seen, distinct = [], set()
    while process.poll() is None or seen[-1] != 1e7:
        record = reader.read()
        values = np.concatenate([record[name] for name in ("target", "action", "observation")])
        assert (values == values[0]).all()
        seen.append(float(values[0]))
        distinct.add(seen[-1])
        if len(distinct) > 50:
            process.stdin.close()
    assert process.returncode == 0
    assert seen == sorted(seen)


def test_memory_is_gone_with_its_users():
    assert Mailbox.size(COMMAND) > COMMAND.itemsize
    folder = "/dev/shm"
    before = os.listdir(folder) if os.path.isdir(folder) else []
    pair()
    assert (os.listdir(folder) if os.path.isdir(folder) else []) == before


def test_a_closed_bell_rings_nothing_not_even_what_has_its_number_now():
    """Stopping, from one thread, while another gives up connecting and closes."""
    (other_end, our_end), (reader, writer) = os.pipe(), os.pipe()
    bell = Doorbell(our_end)
    bell.ring()
    assert os.read(other_end, 16) == b"!"
    bell.close()
    assert os.read(other_end, 16) == b""  # nobody can ring any more
    os.dup2(writer, our_end)  # as any file that is opened next
    bell.ring(), bell.close()
    os.close(writer), os.write(our_end, b"?"), os.close(our_end)
    assert os.read(reader, 16) == b"?"
    os.close(reader), os.close(other_end)
