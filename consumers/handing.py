"""What the consumer loop works under and with: its limits, who takes its records, who hears of its doings."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from consumers.flood import FloodLimits
from consumers.takeover import OwnedPartition
from consumers.tracker import Partition, Slot


class LoopLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one process. Times in seconds, sizes in bytes."""

    in_flight: int = 512
    """Events at the guard."""
    span: int = 2048
    """Records of one partition handed out and not passed; repeated after a crash."""
    buffered_bytes: int = 256 * 1024 * 1024
    poll_timeout_s: float = 0.25
    commit_interval_s: float = 1.0
    halt_check_s: float = 5.0
    idle_keepalive_s: float = 60.0
    """With nothing ready for so long, stay in the group by polling paused partitions."""
    join_check_s: float = 1.0
    """Not in the group for so long, ask the client whether an error keeps us out."""
    revoke_drain_s: float = 30.0
    flood: FloodLimits = FloodLimits()


class Handler(Protocol):
    """What the loop hands records to; the pipeline implements it.

    It is not told when a partition goes: its tracker is no longer ``alive``, and the store's fence refuses the rest.
    """

    def handle(self, slot: Slot) -> bool:
        """Decode a record and pass its items on, without waiting. Returns True when the record was bad."""

    def room(self) -> int:
        """How many more events may be in flight; 0 or less stops intake (also while a breaker is open)."""

    async def drain(self, timeout_s: float) -> bool:
        """Finish and write what was handed out; False when time ran out."""


class Observer(Protocol):
    """What the loop reports; metrics implement it."""

    def partition(self, tracker: OwnedPartition, lag: int | None) -> None: ...
    def gap(self, partition: Partition, records: int) -> None: ...
    def rebalance(self, drain_s: float, partitions: int) -> None: ...
    def committed(self, partitions: int, *, ok: bool) -> None: ...
    def assigned(self, partitions: int, ready: int) -> None: ...
    def records(self, number: int) -> None: ...
    def halted(self, partition: Partition, reason: str | None) -> None: ...
    def unassigned(self, partition: Partition) -> None: ...
    def away(self, target: str) -> None:
        """The loop waits for this dependency; empty where it waits for none."""

    def phase(self, name: str, seconds: float) -> None: ...
