"""The Go2's messages against vectors computed with Unitree's SDK2 and Cyclone DDS 0.10.2."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfx.drivers.go2.wire import messages
from rfx.drivers.go2.wire.crc import crc32

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "data" / "unitree_dds_golden.json.gz").read_bytes()))
VECTORS = [
    pytest.param(dtype, vector, id=f"{kind}: {vector['name']}")
    for kind, dtype in (("lowcmd", messages.LowCmd), ("lowstate", messages.LowState))
    for vector in GOLDEN[kind]
]


def record_of(dtype: np.dtype, fields: dict) -> np.ndarray:
    """A record with the values that a vector names."""
    record = np.zeros(1, dtype)

    def fill(target: np.ndarray, values: dict) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                fill(target[name], value)
            elif isinstance(value, list) and isinstance(value[0], dict):
                for index, item in enumerate(value):
                    fill(target[name][:, index], item)
            else:
                target[name] = value

    fill(record, fields)
    return record[0]


@pytest.mark.parametrize("dtype, vector", VECTORS)
def test_golden_image_crc_and_cdr(dtype, vector):
    record = record_of(dtype, vector["fields"])
    assert record.tobytes()[:-4].hex() == vector["packed_hex"]  # what the CRC runs over: all but the CRC
    assert messages.to_cdr(record).hex() == vector["cdr_hex"]
    record["crc"] = 0
    messages.seal(record)
    assert int(record["crc"]) == vector["crc"]
    assert messages.is_intact(record)


@pytest.mark.parametrize("dtype, vector", VECTORS)
def test_golden_cdr_parses(dtype, vector):
    record = messages.from_cdr(bytes.fromhex(vector["cdr_hex"]), dtype)
    assert record.tobytes() == record_of(dtype, vector["fields"]).tobytes()


def test_stop_command_is_unitrees():
    """A new LowCmd is what Unitree's examples start from."""
    record = messages.new_low_cmd()
    messages.seal(record)
    vector = GOLDEN["lowcmd"][1]
    assert "PosStopF" in vector["name"]
    assert messages.to_cdr(record).hex() == vector["cdr_hex"]


def bitwise_crc(words: list[int]) -> int:
    """The definition, one bit at a time."""
    register = 0xFFFFFFFF
    for word in words:
        for bit in range(31, -1, -1):
            feedback = (register >> 31) ^ (word >> bit & 1)
            register = (register << 1) & 0xFFFFFFFF ^ (0x04C11DB7 if feedback else 0)
    return register


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_crc_is_the_definition(words):
    assert crc32(np.array(words, "<u4").tobytes()) == bitwise_crc(words)


def test_crc_takes_whole_words():
    with pytest.raises(ValueError, match="multiple of 4"):
        crc32(b"12345")


@given(st.binary(min_size=messages.LowState.itemsize, max_size=messages.LowState.itemsize), st.data())
def test_cdr_round_trip_and_damage(image, data):
    record = np.frombuffer(image, messages.LowState)[0].copy()
    messages.seal(record)
    parsed = messages.from_cdr(messages.to_cdr(record), messages.LowState)
    assert messages.to_cdr(parsed) == messages.to_cdr(record)
    messages.seal(parsed)  # padding does not travel; zero it on both sides before damaging one bit
    damaged = bytearray(messages.to_cdr(parsed))
    damaged[data.draw(st.integers(4, len(damaged) - 5))] ^= 1 << data.draw(st.integers(0, 7))
    restored = messages.from_cdr(bytes(damaged), messages.LowState)
    assert restored.tobytes() == parsed.tobytes() or not messages.is_intact(restored)


def test_an_unset_crc_is_right_for_a_simulator_only():
    assert not messages.is_intact(np.zeros((), messages.LowState))
    assert messages.is_intact(np.zeros((), messages.LowState), may_lack_crc=True)


@pytest.mark.parametrize(
    "data", [b"", b"\0\1\0\0" + bytes(100), b"\0\0" + bytes(1178)], ids=["empty", "short", "big endian"]
)
def test_other_data_is_refused(data):
    with pytest.raises(ValueError, match="expected 1180 beginning 00010000"):
        messages.from_cdr(data, messages.LowState)
