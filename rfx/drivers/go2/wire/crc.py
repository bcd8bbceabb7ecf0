"""The Go2's message checksum, computed with zlib's.

Unitree's CRC has the polynomial 0x04C11DB7 and starts from 0xFFFFFFFF. It takes the message's 32-bit little-endian
words one after the other, each from its most significant bit; nothing is reflected and there is no final xor. zlib's
CRC has the same polynomial and start, but takes each byte from its least significant bit, keeps its register mirrored
and inverts the result. So we mirror the bits of every input word and of the final register to get Unitree's CRC from
zlib's.
"""

from __future__ import annotations

import zlib

import numpy as np

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32(data: bytes) -> int:
    """Compute Unitree's CRC of data. Raises ValueError unless data is whole 32-bit words."""
    if len(data) % 4:
        raise ValueError(f"got {len(data)} bytes; expected a multiple of 4: the CRC runs over 32-bit words")
    words = np.frombuffer(data, "<u4").astype(">u4").tobytes().translate(_MIRROR)
    register = zlib.crc32(words) ^ 0xFFFFFFFF
    return int.from_bytes(register.to_bytes(4, "big").translate(_MIRROR), "little")
