"""How far the stored positions are behind the log, and whether the log still has them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct
from msgspec.structs import replace

from consumers.kafka import cluster_id_of
from daemon.doctor.brokers import reader_options
from daemon.doctor.report import Finding, fail, ok, warn
from sentinel.clock import Clock
from sentinel.embedded import VOLATILE_CLUSTER_PREFIX
from sentinel.errors import ConfigurationError
from sentinel.kafka_security import security_arguments
from sentinel.store.engine import DATABASE_ERRORS, raw_connection

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sentinel.settings import Kafka

STALLED: Final = dt.timedelta(minutes=2)
"""A partition with unread records whose position has not moved for this long."""


class Position(Struct, frozen=True):
    """A partition as the store knows it, beside the log's bounds."""

    topic: str
    partition: int
    next_offset: int
    updated_at: dt.datetime
    halted: str | None
    cluster_id: str
    beginning: int = 0
    end: int = 0

    @property
    def lag(self) -> int:
        """Records (and holes) between the stored position and the end."""
        return max(0, self.end - max(self.next_offset, self.beginning))


async def examine_lag(engine: AsyncEngine, kafka: Kafka, clock: Clock) -> list[Finding]:
    """Compare the store with the log. Where either is away there is nothing to compare; others say so."""
    try:
        async with raw_connection(engine) as conn:
            rows = await conn.fetch(
                "SELECT topic, partition, next_offset, updated_at, halted, cluster_id FROM consumer_offsets"
                " WHERE topic = ANY($1::text[]) AND group_id = $2 ORDER BY topic, partition",
                list(kafka.topics),
                kafka.group_id,
            )
    except asyncpg.UndefinedTableError:
        return []  # the schema's finding
    except DATABASE_ERRORS:
        return []  # the database's finding
    finally:
        await engine.dispose()
    positions = [Position(**dict(row)) for row in rows]
    if not positions:
        return [ok("lag", f"the group {kafka.group_id} has stored no position yet")]
    try:
        cluster, bounded = await _with_bounds(positions, kafka)
    except (KafkaError, ConfigurationError, TimeoutError):
        return []  # Kafka's finding
    return check_cluster(bounded, cluster) or check_positions(bounded, clock.now())


def check_cluster(positions: Sequence[Position], cluster_id: str) -> list[Finding]:
    """Positions of another cluster mean nothing here. The embedded broker is a new one at each start."""
    others = {p.cluster_id for p in positions if p.cluster_id and not p.halted} - {cluster_id}
    if not others or not cluster_id or cluster_id.startswith(VOLATILE_CLUSTER_PREFIX):
        return []
    return [
        fail(
            "lag",
            f"the stored positions are of cluster {', '.join(sorted(others))}, this is {cluster_id}",
            "correct kafka.bootstrap_servers or kafka.group_id; where the cluster was replaced on purpose,"
            " `sentinel run` halts each partition and `sentinel offsets reset` accepts the new log",
        )
    ]


def check_positions(positions: Sequence[Position], now: dt.datetime) -> list[Finding]:
    """Lag, standstill, and positions that the log does not have."""
    found: list[Finding] = []
    for position in positions:
        place = f"{position.topic}/{position.partition}"
        if position.halted:
            continue  # named with its command elsewhere
        if position.next_offset > position.end:
            found.append(
                fail(
                    "lag",
                    f"{place}: the stored position {position.next_offset} lies beyond the log's end {position.end}: the"
                    " topic was made anew, or this is another cluster",
                    "check kafka.bootstrap_servers; `sentinel run` halts the partition, and"
                    " `sentinel offsets reset` accepts the new log",
                )
            )
        elif position.next_offset < position.beginning:
            found.append(
                warn(
                    "lag",
                    f"{place}: {position.beginning - position.next_offset} records expired unread",
                    "lengthen retention.ms of the topic beyond the longest outage",
                )
            )
    stalled = [p for p in positions if p.lag and not p.halted and now - p.updated_at > STALLED]
    if stalled:
        oldest = min(p.updated_at for p in stalled)
        found.append(
            fail(
                "lag",
                f"{sum(p.lag for p in stalled)} records wait in {len(stalled)} partition(s) that have not moved since"
                f" {oldest:%Y-%m-%d %H:%M}Z",
                "start `sentinel run`; where it runs, ask its /readyz why it does not take records in",
            )
        )
    total = sum(position.lag for position in positions)
    return found or [ok("lag", f"{total} records over {len(positions)} partition(s)")]


async def _with_bounds(positions: Sequence[Position], kafka: Kafka) -> tuple[str, list[Position]]:
    """The cluster's id, and the positions with the log's bounds."""
    reader = AIOKafkaConsumer(**reader_options(kafka, security_arguments(kafka.security)))
    wanted = [TopicPartition(p.topic, p.partition) for p in positions]
    try:
        await reader.start()
        cluster = await cluster_id_of(reader)
        beginning = await reader.beginning_offsets(wanted)
        end = await reader.end_offsets(wanted)
    finally:
        await reader.stop()
    return cluster, [
        replace(position, beginning=beginning[t], end=end[t])
        for position, t in zip(positions, wanted, strict=True)
    ]
