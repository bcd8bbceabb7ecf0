"""What the robot's network must see of us and of the emulated robot, spelled out here once more, independently of the
code.
"""

import time

import pytest
from go2_wire import EmulatorProcess

pytest.importorskip("cyclonedds", reason="needs the extra go2")
LOW_CMD, LOW_STATE = "unitree_go::msg::dds_::LowCmd_", "unitree_go::msg::dds_::LowState_"
REQUEST, RESPONSE = "unitree_api::msg::dds_::Request_", "unitree_api::msg::dds_::Response_"
TOPICS = {  # topic, type, and whether the robot publishes it
    ("rt/lowstate", LOW_STATE, True),
    ("rt/lowcmd", LOW_CMD, True),  # of its own controller
    ("rt/api/motion_switcher/request", REQUEST, False),
    ("rt/api/motion_switcher/response", RESPONSE, True),
    ("rt/api/sport/request", REQUEST, False),
    ("rt/api/sport/response", RESPONSE, True),
}
CALLS = [
    ("rt/api/sport/request", 1005),
    ("rt/api/motion_switcher/request", 1001),
    ("rt/api/motion_switcher/request", 1003),
    ("rt/api/motion_switcher/request", 1002),
]  # stand down, check mode, release mode, select mode


def test_topics_types_and_api_numbers(tmp_path):
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription

    from rfx.drivers.go2.driver.driver import Go2
    from rfx.drivers.go2.rules.safety import SafetyLimits
    from rfx.drivers.go2.wire import idl
    from rfx.drivers.go2.wire.bus import Bus

    with EmulatorProcess() as emulator:
        bus = Bus(emulator.domain, "lo")
        publications = BuiltinDataReader(bus._participant, BuiltinTopicDcpsPublication)
        subscriptions = BuiltinDataReader(bus._participant, BuiltinTopicDcpsSubscription)
        own = {str(bus.key)}
        deadline_s = time.monotonic() + 10.0
        published, subscribed = set(), set()
        wanted_out = {(topic, kind) for topic, kind, out in TOPICS if out}
        wanted_in = {(topic, kind) for topic, kind, out in TOPICS if not out} | {("rt/lowcmd", LOW_CMD)}
        while not (published >= wanted_out and subscribed >= wanted_in):
            assert time.monotonic() < deadline_s, (published, subscribed)
            for reader, found in ((publications, published), (subscriptions, subscribed)):
                found |= {
                    (sample.topic_name, sample.type_name)
                    for sample in reader.take(100)
                    if getattr(sample, "topic_name", None) and str(sample.participant_key) not in own
                }
            time.sleep(0.05)
        assert published == wanted_out and subscribed == wanted_in, "nothing else either"

        requests = {name: bus.reliable_reader(name, idl.Request_) for name in {topic for topic, _ in CALLS}}
        seen, done = [], []
        robot = Go2(
            domain=emulator.domain, limits=SafetyLimits(damping_s=0.2), log_path=tmp_path / "log.jsonl", restore=""
        )
        robot.connect()
        robot.close()
        assert emulator.ask("pose")["mode"] == "normal"
        for topic, reader in requests.items():
            for sample in reader.take(100):
                if hasattr(sample, "header"):
                    header = sample.header
                    seen.append((topic, header.identity.api_id))
                    done.append(
                        (
                            sample.parameter,
                            header.lease.id,
                            header.policy.priority,
                            header.policy.noreply,
                            list(sample.binary),
                        )
                    )
        assert set(seen) == set(CALLS)
        assert {parameter for parameter, *_ in done} == {"{}", '{"name": "normal"}'}
        assert {tuple(rest[:3]) for _, *rest in done} == {(0, 0, False)}
