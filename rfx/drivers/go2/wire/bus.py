"""Protocols of the network between the Go2's processes: topics, participants, readers and writers.

dds.py implements the real network; tests have a network in memory.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

LOW_STATE, LOW_CMD = "rt/lowstate", "rt/lowcmd"
LOOPBACK = "lo"


class Publication(Protocol):
    """Information about a participant's writer."""

    participant_key: UUID


class Reader(Protocol):
    """Samples of one topic.

    A writer that leaves produces a sample without data: it has no attribute `record` or `header`.
    """

    def take(self, num: int) -> list[Any]:
        """Take at most num new samples, oldest first."""

    def get_matched_publications(self) -> list[int]:
        """Return the handles of the writers that this reader has met."""

    def get_matched_publication_data(self, handle: int) -> Publication | None:
        """Return information about the writer with this handle; None if it has left."""


class Writer(Protocol):
    """A writer of one topic; it leaves when no reference to it remains."""

    def write(self, sample: Any) -> None: ...
    def get_matched_subscriptions(self) -> list[int]:
        """Return the handles of the readers that this writer has met."""


class Bus(Protocol):
    """A participant in a domain."""

    @property
    def key(self) -> UUID:
        """Key by which others know this participant."""

    def another(self) -> Bus:
        """Make a second participant of the same domain in this process."""

    def participants(self) -> dict[UUID, str]:
        """Return key and name of all participants met in the domain so far, including this one."""

    def name_of(self, key: UUID) -> str:
        """Name that a participant gives itself: process, its number, host."""

    def reader(self, topic: str, message: type, *, depth: int = 1, others_only: bool = False) -> Reader:
        """Make a reader of the newest depth samples; others_only leaves out this participant's own samples."""

    def reliable_reader(self, topic: str, message: type) -> Reader:
        """Make a reader that misses no request or response."""

    def writer(self, topic: str, message: type) -> Writer:
        """Make a writer whose newest samples arrive if possible."""
