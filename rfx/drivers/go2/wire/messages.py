"""The Go2's low-level messages as numpy records with the layout of Unitree's C structs, and their bytes on the wire.

A record *is* the C image (`align=True` pads like a C compiler); the CRC is computed over this image. The CDR body in
DDS holds the same bytes with less padding, so serialising is one gather and parsing one scatter.
Source of field names, types and stop values: unitree_go/msg of Unitree's SDK2.
"""

from __future__ import annotations

import numpy as np

from rfx.drivers.go2.wire.crc import crc32

Record = np.ndarray  # zero-dimensional, of one of the dtypes below

NUM_SLOTS = 20  # motor slots in a message; the Go2's twelve motors are the first
MOTOR_ON = 1
STOP_POSITION, STOP_VELOCITY = 2.146e9, 16000.0  # "do not control": only ever with kp = kd = 0


def _struct(*fields: tuple) -> np.dtype:
    return np.dtype(list(fields), align=True)


MotorCmd = _struct(
    ("mode", "u1"), ("q", "<f4"), ("dq", "<f4"), ("tau", "<f4"), ("kp", "<f4"), ("kd", "<f4"), ("reserve", "<u4", 3)
)
BmsCmd = _struct(("off", "u1"), ("reserve", "u1", 3))
LowCmd = _struct(
    ("head", "u1", 2),
    ("level_flag", "u1"),
    ("frame_reserve", "u1"),
    ("sn", "<u4", 2),
    ("version", "<u4", 2),
    ("bandwidth", "<u2"),
    ("motor_cmd", MotorCmd, NUM_SLOTS),
    ("bms_cmd", BmsCmd),
    ("wireless_remote", "u1", 40),
    ("led", "u1", 12),
    ("fan", "u1", 2),
    ("gpio", "u1"),
    ("reserve", "<u4"),
    ("crc", "<u4"),
)

IMUState = _struct(
    ("quaternion", "<f4", 4),
    ("gyroscope", "<f4", 3),
    ("accelerometer", "<f4", 3),
    ("rpy", "<f4", 3),
    ("temperature", "u1"),
)
MotorState = _struct(
    ("mode", "u1"),
    ("q", "<f4"),
    ("dq", "<f4"),
    ("ddq", "<f4"),
    ("tau_est", "<f4"),
    ("q_raw", "<f4"),
    ("dq_raw", "<f4"),
    ("ddq_raw", "<f4"),
    ("temperature", "u1"),
    ("lost", "<u4"),
    ("reserve", "<u4", 2),
)
BmsState = _struct(
    ("version_high", "u1"),
    ("version_low", "u1"),
    ("status", "u1"),
    ("soc", "u1"),
    ("current", "<i4"),
    ("cycle", "<u2"),
    ("bq_ntc", "u1", 2),
    ("mcu_ntc", "u1", 2),
    ("cell_vol", "<u2", 15),
)
LowState = _struct(
    ("head", "u1", 2),
    ("level_flag", "u1"),
    ("frame_reserve", "u1"),
    ("sn", "<u4", 2),
    ("version", "<u4", 2),
    ("bandwidth", "<u2"),
    ("imu_state", IMUState),
    ("motor_state", MotorState, NUM_SLOTS),
    ("bms_state", BmsState),
    ("foot_force", "<i2", 4),
    ("foot_force_est", "<i2", 4),
    ("tick", "<u4"),
    ("wireless_remote", "u1", 40),
    ("bit_flag", "u1"),
    ("adc_reel", "<f4"),
    ("temperature_ntc1", "u1"),
    ("temperature_ntc2", "u1"),
    ("power_v", "<f4"),
    ("power_a", "<f4"),
    ("fan_frequency", "<u2", 4),
    ("reserve", "<u4"),
    ("crc", "<u4"),
)

# Names in Unitree's IDL.
NAMES = {
    MotorCmd: "MotorCmd_",
    BmsCmd: "BmsCmd_",
    LowCmd: "LowCmd_",
    IMUState: "IMUState_",
    MotorState: "MotorState_",
    BmsState: "BmsState_",
    LowState: "LowState_",
}
CDR_HEADER = bytes((0, 1, 0, 0))  # little endian, XCDR1


def _cdr_layout(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of each byte of data in the CDR body and in the C image. Two int arrays of equal length.

    XCDR1 aligns every scalar to its own size, counted from the start of the body; structs are not aligned.
    """
    body, image, end = [], [], 0

    def walk(dtype: np.dtype, offset: int) -> None:
        nonlocal end
        if dtype.subdtype is not None:
            base, shape = dtype.subdtype
            for index in range(int(np.prod(shape))):
                walk(base, offset + index * base.itemsize)
        elif dtype.fields is not None:
            for name in dtype.names:
                field, start = dtype.fields[name][:2]
                walk(field, offset + start)
        else:
            end = -(-end // dtype.itemsize) * dtype.itemsize
            body.extend(range(end, end + dtype.itemsize))
            image.extend(range(offset, offset + dtype.itemsize))
            end += dtype.itemsize

    walk(dtype, 0)
    return np.array(body), np.array(image)


_LAYOUTS = {dtype: _cdr_layout(dtype) for dtype in (LowCmd, LowState)}


def to_cdr(record: Record) -> bytes:
    """Serialise a record for DDS: encapsulation header, then the XCDR1 body."""
    body, image = _LAYOUTS[record.dtype]
    out = np.zeros(body[-1] + 1, np.uint8)
    out[body] = record.reshape(1).view(np.uint8)[image]
    return CDR_HEADER + out.tobytes()


def from_cdr(data: bytes, dtype: np.dtype) -> Record:
    """Parse a record from DDS. Raises ValueError for another encapsulation or length."""
    body, image = _LAYOUTS[dtype]
    size = len(CDR_HEADER) + int(body[-1]) + 1
    if data[:2] != CDR_HEADER[:2] or len(data) < size:
        raise ValueError(
            f"got {len(data)} bytes beginning {data[:4].hex()} as {NAMES[dtype]}; expected {size} beginning {CDR_HEADER.hex()}"
        )
    record = np.zeros((), dtype)
    record.reshape(1).view(np.uint8)[image] = np.frombuffer(data, np.uint8, offset=len(CDR_HEADER))[body]
    return record


def seal(record: Record) -> None:
    """Write the record's CRC into it, in place."""
    record["crc"] = _crc(record)


def is_intact(record: Record, *, may_lack_crc: bool = False) -> bool:
    """Whether the CRC is right.

    may_lack_crc also accepts a CRC of 0, which simulators leave. Never use it on a real robot's network.
    """
    return int(record["crc"]) == _crc(record) or (may_lack_crc and int(record["crc"]) == 0)


def _crc(record: Record) -> int:
    return crc32(record.tobytes()[:-4])  # all but the last word, the CRC itself


def new_low_cmd() -> Record:
    """Make a LowCmd that moves nothing: header filled in, all motors on, stop values, no gains."""
    record = np.zeros((), LowCmd)
    record["head"], record["level_flag"] = (0xFE, 0xEF), 0xFF
    motors = record["motor_cmd"]
    motors["mode"], motors["q"], motors["dq"] = MOTOR_ON, STOP_POSITION, STOP_VELOCITY
    return record


def damping_cmd(kd: float, num_motors: int = 12) -> Record:
    """Make a sealed LowCmd that damps the legs: kd N m s/rad, no position gain, target velocity zero."""
    record = new_low_cmd()
    motors = record["motor_cmd"][:num_motors]
    motors["q"], motors["dq"], motors["kd"] = 0.0, 0.0, kd
    seal(record)
    return record
