"""The DDS types: what they announce to a peer, and the bytes of the requests to the motion switcher."""

import pytest
from test_go2_messages import GOLDEN

idl = pytest.importorskip("rfx.drivers.go2.wire.idl", reason="needs the extra go2 (cyclonedds)", exc_type=ImportError)


@pytest.mark.parametrize("name, hash_begins", [("LowCmd_", "832876ce"), ("LowState_", "853a99e2")])
def test_type_identifiers_are_unitrees(name, hash_begins):
    """An octet declared as uint8 instead of byte would crash the robot's processes; it changes this hash."""
    message = getattr(idl, name)
    assert message.__idl__.idl_transformed_typename == f"unitree_go::msg::dds_::{name}"
    identifier = message.__idl__.get_type_info().minimal.typeid_with_size.type_id
    assert bytes(identifier.value).hex().startswith(hash_begins)
    assert message.__idl__.keyless


@pytest.mark.parametrize("vector", GOLDEN["rpc"], ids=lambda vector: vector["name"])
def test_golden_rpc(vector):
    message = idl.Request_ if vector["name"].startswith("Request_") else idl.Response_
    sample = message.deserialize(bytes.fromhex(vector["cdr_hex"]))
    fields = vector["fields"]
    assert vars(sample.header.identity) == fields["header"]["identity"]
    assert (sample.parameter if message is idl.Request_ else sample.data) == fields[
        "parameter" if message is idl.Request_ else "data"
    ]
    data = sample.serialize()
    assert data.ljust(-(-len(data) // 4) * 4, b"\0").hex() == vector["cdr_hex"]  # the writer pads to whole words
