"""DDS for the Go2: a participant on one network interface, and readers and writers of the robot's topics."""

from __future__ import annotations

from uuid import UUID

try:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsParticipant
    from cyclonedds.core import DDSException, Policy, Qos
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration
except ModuleNotFoundError:
    raise
except Exception as error:  # a cyclonedds built from source raises its own kind of error
    raise ImportError(
        f"cyclonedds is installed, but does not load: {error}. Where CYCLONEDDS_HOME is set it must be the library's folder "
        "(docs/deploy.md)"
    ) from error

from rfx.drivers.go2.wire.bus import LOOPBACK


class DdsBus:
    """The Bus of the real network, a DDS participant in a domain.

    The real robot is in domain 0 on its Ethernet; simulators are usually in domain 1 on loopback.
    A process joins a domain once; `another` makes further participants in it.
    Raises ConnectionError if the interface does not exist.
    """

    def __init__(self, domain: int, interface: str):
        try:
            self._domain, self._number = Domain(domain, _settings(interface)), domain
            self._participant = DomainParticipant(domain)
        except DDSException as error:
            raise ConnectionError(
                f"cannot join DDS domain {domain} on network interface {interface!r}: does the interface exist, "
                f"and has it an address? ({error})"
            ) from error
        self._topics: dict[str, Topic] = {}
        self._participants = BuiltinDataReader(self._participant, BuiltinTopicDcpsParticipant)
        self._names: dict[UUID, str] = {}

    @property
    def key(self) -> UUID:
        """Key by which others know this participant."""
        return self._participant.guid

    def another(self) -> DdsBus:
        """Make a second participant of the same domain in this process."""
        bus = object.__new__(DdsBus)
        bus._domain, bus._number, bus._participant, bus._topics = (
            self._domain,
            self._number,
            DomainParticipant(self._number),
            {},
        )
        bus._participants, bus._names = BuiltinDataReader(bus._participant, BuiltinTopicDcpsParticipant), {}
        return bus

    def participants(self) -> dict[UUID, str]:
        """Return key and name of all participants met in the domain so far, including this one."""
        for sample in self._participants.take(100):
            if getattr(sample, "qos", None) is not None:
                said = {policy.key: policy.value for policy in sample.qos if isinstance(policy, Policy.Property)}
                where = f" on {said['__Hostname']}" if "__Hostname" in said else ""
                self._names[sample.key] = (
                    f"{said['__ProcessName']!r}, process {said.get('__Pid', '?')}{where}"
                    if "__ProcessName" in said
                    else f"participant {sample.key}"
                )
        return dict(self._names)

    def name_of(self, key: UUID) -> str:
        """Name that a participant gives itself: process, its number, host."""
        return self.participants().get(key, f"participant {key}")

    def reader(self, topic: str, message: type, *, depth: int = 1, others_only: bool = False) -> DataReader:
        """Make a reader of the newest depth samples; others_only leaves out this participant's own samples."""
        qos = [Policy.Reliability.BestEffort, Policy.History.KeepLast(depth)]
        return DataReader(
            self._participant, self._topic(topic, message), Qos(*qos, *([Policy.IgnoreLocal.Participant] * others_only))
        )

    def reliable_reader(self, topic: str, message: type) -> DataReader:
        """Make a reader that misses no request or response."""
        qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(32))
        return DataReader(self._participant, self._topic(topic, message), qos)

    def writer(self, topic: str, message: type) -> DataWriter:
        """Make a writer with the same quality of service as Unitree's."""
        qos = Qos(Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.History.KeepLast(1))
        return DataWriter(self._participant, self._topic(topic, message), qos)

    def _topic(self, name: str, message: type) -> Topic:
        if name not in self._topics:
            self._topics[name] = Topic(self._participant, name, message)
        return self._topics[name]


def _settings(interface: str) -> str:
    """Cyclone DDS settings for one interface. Multicast must be off on loopback, or a 0.10.2 peer is never met."""
    multicast = ' multicast="false"' if interface == LOOPBACK else ""
    return (
        f'<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="{interface}"{multicast}/></Interfaces></General></Domain>'
        "</CycloneDDS>"
    )
