"""What the consumer loop asks of a log; Kafka and a file are two implementations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from consumers.tracker import Partition
from sentinel.errors import SentinelError
from sentinel.events import Headers


class LogRecord(Protocol):
    """One record as the client library hands it out."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Bounds(NamedTuple):
    """First offset that the log still has, and the offset after its last record."""

    beginning: int
    end: int


class PositionLostError(SentinelError):
    """The log cannot be read at our position: out of range, or never set."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        super().__init__(f"position lost on {len(partitions)} partition(s)")
        self.partitions = tuple(partitions)


Revoked = Callable[[frozenset[Partition]], Awaitable[None]]
Assigned = Callable[[frozenset[Partition]], None]


class Source(Protocol):
    """A partitioned log under group membership. Called from one task; only `poll` waits for long."""

    @property
    def cluster_id(self) -> str:
        """Identity of the cluster (or file) that offsets belong to; known after `start`."""

    async def start(self, revoked: Revoked, assigned: Assigned) -> None:
        """Join. ``revoked`` is awaited before partitions go, ``assigned`` must not wait.

        Raises ConfigurationError for wrong settings and UnavailableError while the log is away.
        """

    async def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        """Beginning and end offsets. Raises UnavailableError."""

    def seek(self, partition: Partition, offset: int) -> bool:
        """Read on at ``offset``; False when the partition is no longer assigned."""

    async def poll(
        self, partitions: Sequence[Partition], *, max_records: int, timeout_s: float
    ) -> Mapping[Partition, Sequence[LogRecord]]:
        """Records of these partitions only; empty after ``timeout_s``.

        Raises PositionLostError and UnavailableError; ``partitions`` must not be empty.
        """

    async def keepalive(self, timeout_s: float) -> None:
        """Stay in the group without taking records."""

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Tell lag tools how far we are; False (and a log line) on failure, never raises."""

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        """Records between ``next_offset`` and the last known end, None where unknown."""

    @property
    def exhausted(self) -> bool:
        """True when no record will ever come (a file that was read to its end)."""

    async def stop(self) -> None:
        """Leave; idempotent."""
