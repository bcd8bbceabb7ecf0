"""What goes over the Go2's wire, spelled out here and nowhere derived from the code: topics, services, api numbers, types, qualities.

Sources: Unitree's SDK2 (idl, motion_switcher and sport clients), and what its own tools announce. A change here is a robot that does not
answer, or one that does what nobody asked for.
"""

import typing

import pytest

idl = pytest.importorskip("rfx.robots.go2.idl", reason="needs the extra go2 (cyclonedds)", exc_type=ImportError)
from cyclonedds.core import Policy  # noqa: E402
from cyclonedds.util import duration  # noqa: E402

from go2_wire import free_domain  # noqa: E402
from rfx.robots.go2 import bus, switcher  # noqa: E402

TYPES = {  # class: name on the wire, beginning of its XTypes hash in Unitree's headers where that is known
    "LowCmd_": ("unitree_go::msg::dds_::LowCmd_", "832876ce"),
    "LowState_": ("unitree_go::msg::dds_::LowState_", "853a99e2"),
    "Request_": ("unitree_api::msg::dds_::Request_", ""),
    "Response_": ("unitree_api::msg::dds_::Response_", ""),
    "RequestHeader_": ("unitree_api::msg::dds_::RequestHeader_", ""),
    "RequestIdentity_": ("unitree_api::msg::dds_::RequestIdentity_", ""),
    "RequestLease_": ("unitree_api::msg::dds_::RequestLease_", ""),
    "RequestPolicy_": ("unitree_api::msg::dds_::RequestPolicy_", ""),
    "ResponseHeader_": ("unitree_api::msg::dds_::ResponseHeader_", ""),
    "ResponseStatus_": ("unitree_api::msg::dds_::ResponseStatus_", ""),
}
MEMBERS = {  # members in order, with their IDL types
    "Request_": [("header", "RequestHeader_"), ("parameter", "string"), ("binary", "sequence<octet>")],
    "Response_": [("header", "ResponseHeader_"), ("data", "string"), ("binary", "sequence<octet>")],
    "RequestHeader_": [("identity", "RequestIdentity_"), ("lease", "RequestLease_"), ("policy", "RequestPolicy_")],
    "RequestIdentity_": [("id", "int64"), ("api_id", "int64")],
    "RequestLease_": [("id", "int64")],
    "RequestPolicy_": [("priority", "int32"), ("noreply", "boolean")],
    "ResponseHeader_": [("identity", "RequestIdentity_"), ("status", "ResponseStatus_")],
    "ResponseStatus_": [("code", "int32")],
}
SERVICES = {  # service: its topics, and what is asked of it
    "motion_switcher": ("rt/api/motion_switcher/request", "rt/api/motion_switcher/response",
                        {"CHECK_MODE": 1001, "SELECT_MODE": 1002, "RELEASE_MODE": 1003}),
    "sport": ("rt/api/sport/request", "rt/api/sport/response", {"STAND_DOWN": 1005}),
}


@pytest.mark.parametrize("name", TYPES)
def test_types(name):
    wire_name, hash_begins = TYPES[name]
    message = getattr(idl, name)
    identifier = message.__idl__.get_type_info().minimal.typeid_with_size.type_id
    assert message.__idl__.idl_transformed_typename == wire_name and message.__idl__.keyless
    assert bytes(identifier.value).hex().startswith(hash_begins)


def idl_name(annotation) -> str:
    """An annotation in the words of IDL."""
    if typing.get_origin(annotation) is typing.Annotated:
        kind = annotation.__metadata__[-1]
        if type(kind).__name__ == "sequence":
            return f"sequence<{idl_name(kind.subtype)}>"
        return {"byte": "octet"}.get(kind, kind)
    return {str: "string", bool: "boolean"}.get(annotation) or annotation.__name__


@pytest.mark.parametrize("name", MEMBERS)
def test_members(name):
    hints = typing.get_type_hints(getattr(idl, name), include_extras=True)
    assert [(key, idl_name(hint)) for key, hint in hints.items() if not key.startswith("__")] == MEMBERS[name]


def test_topics():
    assert (bus.LOW_STATE, bus.LOW_CMD) == ("rt/lowstate", "rt/lowcmd")


@pytest.mark.parametrize("service", SERVICES)
def test_services(service):
    request, response, numbers = SERVICES[service]
    assert service in (switcher.SWITCHER, switcher.SPORT)
    assert (switcher.request_topic(service), switcher.response_topic(service)) == (request, response)
    assert {name: getattr(switcher, name) for name in numbers} == numbers


def test_qualities():
    """Ours: writers reliable for 100 ms, keep last 1, volatile; readers of state best effort, volatile. No reader that asks for history."""
    own = bus.Bus(free_domain(), "lo")
    writer, reader = own.writer("rt/lowcmd", idl.LowCmd_).get_qos(), own.reader("rt/lowstate", idl.LowState_).get_qos()
    answers = own.reliable_reader("rt/api/sport/response", idl.Response_).get_qos()
    assert writer[Policy.Reliability] == Policy.Reliability.Reliable(duration(milliseconds=100))
    assert writer[Policy.History] == reader[Policy.History] == Policy.History.KeepLast(1)
    assert reader[Policy.Reliability] == Policy.Reliability.BestEffort
    assert answers[Policy.Reliability] == Policy.Reliability.Reliable(duration(seconds=1))
    assert {qos[Policy.Durability] for qos in (writer, reader, answers)} == {Policy.Durability.Volatile}
