"""The Go2's messages as DDS types, generated from the records in messages.py, their only description.

Octets are `byte`, never `uint8`: Cyclone DDS 11 announces uint8 as a type that the robot's 0.10.2 does not know, and
the robot's process crashes when it looks up the type. Tests compare the type identifiers with Unitree's C++ headers.
Do not use `from __future__ import annotations` here: cyclonedds resolves the annotations and cannot if they are
strings.
"""

from dataclasses import dataclass, field

import numpy as np
from cyclonedds.idl import IdlStruct, make_idl_struct
from cyclonedds.idl.annotations import final
from cyclonedds.idl.types import array, byte, float32, int16, int32, int64, sequence, uint16, uint32

from rfx.drivers.go2.wire import messages

_SCALARS = {"u1": byte, "<u2": uint16, "<u4": uint32, "<i2": int16, "<i4": int32, "<f4": float32}


def _type(dtype: np.dtype):
    if dtype.subdtype is not None:
        base, (length,) = dtype.subdtype
        return array[_type(base), length]
    if dtype.fields is not None:
        return _struct(dtype)
    return _SCALARS[dtype.str.replace("|", "")]


def _struct(dtype: np.dtype, **options):
    name = messages.NAMES[dtype]
    fields = {key: _type(dtype.fields[key][0]) for key in dtype.names}
    return final(make_idl_struct(name, f"unitree_go.msg.dds_.{name}", fields, **options))


def _message(dtype: np.dtype) -> type:
    """Make a DDS type whose samples hold a record; messages.py serialises it at once, not field by field."""
    message = _struct(dtype, dataclassify=False)

    def initialise(self, record: messages.Record) -> None:
        self.record = record

    def serialize(self, **_) -> bytes:
        return messages.to_cdr(self.record)

    def deserialize(cls, data: bytes, **_):
        return cls(messages.from_cdr(data, dtype))

    def deserialize_key(cls, data: bytes, **_) -> None:  # called when a writer has left; there is no key
        return None

    message.__init__, message.serialize = initialise, serialize
    message.deserialize, message.deserialize_key = classmethod(deserialize), classmethod(deserialize_key)
    return message


LowCmd_, LowState_ = _message(messages.LowCmd), _message(messages.LowState)

_API = "unitree_api.msg.dds_."


@dataclass
@final
class RequestIdentity_(IdlStruct, typename=_API + "RequestIdentity_"):
    id: int64 = 0
    api_id: int64 = 0


@dataclass
@final
class RequestLease_(IdlStruct, typename=_API + "RequestLease_"):
    id: int64 = 0


@dataclass
@final
class RequestPolicy_(IdlStruct, typename=_API + "RequestPolicy_"):
    priority: int32 = 0
    noreply: bool = False


@dataclass
@final
class RequestHeader_(IdlStruct, typename=_API + "RequestHeader_"):
    identity: RequestIdentity_ = field(default_factory=RequestIdentity_)
    lease: RequestLease_ = field(default_factory=RequestLease_)
    policy: RequestPolicy_ = field(default_factory=RequestPolicy_)


@dataclass
@final
class Request_(IdlStruct, typename=_API + "Request_"):
    header: RequestHeader_ = field(default_factory=RequestHeader_)
    parameter: str = ""
    binary: sequence[byte] = field(default_factory=list)


@dataclass
@final
class ResponseStatus_(IdlStruct, typename=_API + "ResponseStatus_"):
    code: int32 = 0


@dataclass
@final
class ResponseHeader_(IdlStruct, typename=_API + "ResponseHeader_"):
    identity: RequestIdentity_ = field(default_factory=RequestIdentity_)
    status: ResponseStatus_ = field(default_factory=ResponseStatus_)


@dataclass
@final
class Response_(IdlStruct, typename=_API + "Response_"):
    header: ResponseHeader_ = field(default_factory=ResponseHeader_)
    data: str = ""
    binary: sequence[byte] = field(default_factory=list)
