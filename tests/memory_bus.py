"""A bus in memory, with the operations of rfx.drivers.go2.wire.bus.Bus, whose discovery and losses the test decides."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
from virtual_clock import VirtualClock, VirtualProcess


class Network:
    """One domain. listeners are told each sample: when, the topic, the writer, what."""

    def __init__(self, clock: VirtualClock):
        self.clock = clock
        # from when both are there until a reader and a writer have met: what is written before is lost
        self.discovery_s = 0.0
        self.is_lost: Callable[[MemoryWriter, MemoryReader], bool] = lambda writer, reader: False
        self.listeners: list[Callable[[float, str, MemoryWriter, Any], None]] = []
        self.buses: list[MemoryBus] = []
        self.numbers = itertools.count(1)
        self._ends: list[weakref.ref[End]] = []

    def bus(self, process: VirtualProcess) -> MemoryBus:
        """A participant of a process, which leaves when that ends."""
        bus = MemoryBus(self, process)
        self.buses.append(bus)
        process.on_end.append(bus.leave)
        return bus

    def add(self, end: End) -> None:
        self._ends = [*(ref for ref in self._ends if ref() is not None), weakref.ref(end)]

    def met(self, end: End, kind: type[End]) -> Iterator[Any]:
        """The readers, or writers, of its topic that it knows."""
        for ref in self._ends:
            other = ref()
            if (
                isinstance(other, kind)
                and other.topic == end.topic
                and other.bus in self.buses
                and end.bus in self.buses
            ):
                if self.clock.time_s >= max(other.since_s, end.since_s) + self.discovery_s:
                    yield other


class MemoryBus:
    """A participant."""

    def __init__(self, network: Network, process: VirtualProcess):
        self.network, self.process, self.key = network, process, UUID(int=next(network.numbers))

    def another(self) -> MemoryBus:
        return self.network.bus(self.process)

    def participants(self) -> dict[UUID, str]:
        return {bus.key: f"{bus.process.name!r}, process {bus.key.int} on virtual" for bus in self.network.buses}

    def name_of(self, key: UUID) -> str:
        return self.participants().get(key, f"participant {key}")

    def reader(self, topic: str, message: type, *, depth: int = 1, others_only: bool = False) -> MemoryReader:
        return MemoryReader(self, topic, depth, others_only)

    def reliable_reader(self, topic: str, message: type) -> MemoryReader:
        return MemoryReader(self, topic, 32, False)

    def writer(self, topic: str, message: type) -> MemoryWriter:
        return MemoryWriter(self, topic)

    def leave(self) -> None:
        """Its readers and writers are there no more."""
        self.network.buses.remove(self)


class End:
    """A reader or a writer; it is there as long as somebody refers to it, and its process lives."""

    def __init__(self, bus: MemoryBus, topic: str):
        self.bus, self.topic, self.since_s, self.handle = (
            bus,
            topic,
            bus.network.clock.time_s,
            next(bus.network.numbers),
        )
        bus.network.add(self)


class MemoryReader(End):
    def __init__(self, bus: MemoryBus, topic: str, depth: int, others_only: bool):
        super().__init__(bus, topic)
        self.others_only, self.samples = others_only, deque(maxlen=depth)

    def take(self, num: int) -> list[Any]:
        return [self.samples.popleft() for _ in range(min(num, len(self.samples)))]

    def get_matched_publications(self) -> list[int]:
        return [writer.handle for writer in self._writers()]

    def get_matched_publication_data(self, handle: int) -> SimpleNamespace | None:
        return next(
            (SimpleNamespace(participant_key=writer.bus.key) for writer in self._writers() if writer.handle == handle),
            None,
        )

    def _writers(self) -> Iterator[MemoryWriter]:
        return (
            writer
            for writer in self.bus.network.met(self, MemoryWriter)
            if not (self.others_only and writer.bus is self.bus)
        )


class MemoryWriter(End):
    def write(self, sample: Any) -> None:
        network = self.bus.network
        network.clock.check()
        sent = copy.copy(sample)
        if hasattr(sample, "record"):  # byte by byte: the checksum counts the padding between fields too
            sent.record = np.frombuffer(sample.record.tobytes(), sample.record.dtype).reshape(())
        sent.sample_info = SimpleNamespace(
            publication_handle=self.handle, source_timestamp=round(network.clock.time_s * 1e9)
        )
        for listener in network.listeners:
            listener(network.clock.time_s, self.topic, self, sent)
        for reader in self._readers():
            if not network.is_lost(self, reader):
                reader.samples.append(sent)

    def get_matched_subscriptions(self) -> list[int]:
        return [reader.handle for reader in self._readers()]

    def _readers(self) -> Iterator[MemoryReader]:
        return (
            reader
            for reader in self.bus.network.met(self, MemoryReader)
            if not (reader.others_only and reader.bus is self.bus)
        )

    def __del__(self) -> None:
        for reader in self._readers():
            reader.samples.append(SimpleNamespace())  # as DDS tells of a writer that has left: a sample without data
