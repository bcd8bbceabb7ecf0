"""The network that the Go2's processes speak over, whatever it is: topics, and a participant's readers and writers.

dds.py has the real one; tests have one in memory.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

LOW_STATE, LOW_CMD = "rt/lowstate", "rt/lowcmd"
LOOPBACK = "lo"


class Publication(Protocol):
    """What is known of somebody's writer."""

    participant_key: UUID


class Reader(Protocol):
    """Samples of one topic.

    What a writer leaves behind when it goes is a sample without data: no attribute `record` or `header`.
    """

    def take(self, num: int) -> list[Any]:
        """At most num samples, oldest first, that were not taken before."""

    def get_matched_publications(self) -> list[int]:
        """Handles of the writers that were met."""

    def get_matched_publication_data(self, handle: int) -> Publication | None:
        """Whose writer that is; None when it has left."""


class Writer(Protocol):
    """A writer of one topic; it leaves when nobody refers to it any more."""

    def write(self, sample: Any) -> None: ...
    def get_matched_subscriptions(self) -> list[int]:
        """Handles of the readers that were met."""


class Bus(Protocol):
    """A participant in a domain."""

    @property
    def key(self) -> UUID:
        """The participant's, which others know it by."""

    def another(self) -> Bus:
        """A second participant of the same domain in this process."""

    def participants(self) -> dict[UUID, str]:
        """Everybody who was met in the domain so far, this participant included: key, and what it says of itself."""

    def name_of(self, key: UUID) -> str:
        """What a participant says of itself: process, its number, host."""

    def reader(self, topic: str, message: type, *, depth: int = 1, others_only: bool = False) -> Reader:
        """A reader of the newest depth samples; others_only leaves out what this participant writes itself."""

    def reliable_reader(self, topic: str, message: type) -> Reader:
        """A reader that misses no request or response."""

    def writer(self, topic: str, message: type) -> Writer:
        """A writer of newest samples, which arrive where that can be."""
