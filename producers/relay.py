"""The relay: what stands in the outbox leaves for Kafka, at least once, in the order of writing.

One pass of a relay (one topic, one transaction):

    1. order      an ordered topic is taken by an advisory lock; another process has it: nothing to do
    2. claim      the oldest unsent rows are locked; other relays of the topic pass them over
    3. send       all at once, or one after the other on an ordered topic up to the first failure
    4. mark       the rows that the broker acknowledged, and commit

A crash between 3 and 4 sends rows again: consumers deduplicate by the ids in the documents. While the
broker or the database is away the rows stay, the relay waits longer and longer, and nothing else notices.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
from aiokafka.errors import KafkaError
from msgspec import Struct

from producers.kafka import NEEDS_OPERATOR, TOO_LARGE, close_at_once
from sentinel import logs
from sentinel.clock import Clock
from sentinel.store import outbox
from sentinel.store.engine import DATABASE_ERRORS, classify
from sentinel.store.outbox import ClaimedRow

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from sentinel.store.connections import Connect

    Connection = asyncpg.Connection[Any]

OMITTED_HEADER = "sentinel-omitted-bytes"
"""Size of a value that the broker refused as too large; the record then carries its headers alone."""

BROKER_ERRORS = (KafkaError, OSError, TimeoutError)
"""What a producer raises while it cannot deliver."""

_log = logs.get("producers.relay")


class RelayMetrics(Protocol):
    """What a relay reports; the daemon maps it onto the closed metric list."""

    def sent(self, topic: str, n: int) -> None:
        """``n`` records were acknowledged and marked."""

    def failed(self, topic: str, reason: str) -> None:
        """A pass ended early; ``reason`` is ``broker``, ``operator`` or ``database``."""

    def backlog(self, topic: str, rows: int, oldest_seconds: float) -> None:
        """Unsent rows (counted up to a limit) and the age of the oldest, 0 where there is none."""


class RelayLimits(Struct, frozen=True, kw_only=True):
    """Sizes and waits of a relay; durations in seconds."""

    batch_rows: int = 500
    batch_bytes: int = 8 * 1024 * 1024
    poll_interval: float = 1.0
    """Pause of an idle relay; other processes' rows are found within it."""
    send_timeout: float = 30.0
    """Longest time that rows stay locked while the broker is waited for."""
    start_timeout: float = 90.0
    """Above the client's own limits for connecting: cancelled in the middle of it, it leaves a socket open."""
    first_backoff: float = 0.5
    longest_backoff: float = 30.0
    backlog_interval: float = 10.0


class PassResult(Struct, frozen=True):
    """What one pass did."""

    sent: int
    more: bool
    """Rows were there, so there may be others."""
    failure: str = ""


class Relay:
    """The relay of one topic. Call `run` once, as a task of its own; `wake` after rows were committed."""

    def __init__(
        self,
        topic: str,
        connect: Connect,
        make_producer: Callable[[], AIOKafkaProducer],
        *,
        clock: Clock,
        metrics: RelayMetrics,
        ordered: bool = False,
        limits: RelayLimits | None = None,
    ) -> None:
        self.topic = topic
        self._connect = connect
        self._make_producer = make_producer
        self._clock = clock
        self._metrics = metrics
        self._ordered = ordered
        self._limits = limits or RelayLimits()
        self._producer: AIOKafkaProducer | None = None
        self._closing: dict[asyncio.Task[None], AIOKafkaProducer] = {}
        self._refused = False
        self._wake = asyncio.Event()
        self._backlog_due = 0.0

    def wake(self) -> None:
        """Rows may be waiting: do not sleep out the pause."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until ``stop`` is set; the pass under way is finished first, bounded by ``send_timeout``."""
        backoff = self._limits.first_backoff
        try:
            while not stop.is_set():
                self._wake.clear()
                result = await self.pass_once()
                await self._report_backlog()
                if result.failure:
                    self._metrics.failed(self.topic, result.failure)
                    await self._pause(stop, backoff * random.uniform(0.5, 1.0), wakeable=False)
                    backoff = min(backoff * 2, self._limits.longest_backoff)
                    continue
                backoff = self._limits.first_backoff
                if not result.more:
                    await self._pause(stop, self._limits.poll_interval, wakeable=True)
        finally:
            await self._close_all()

    async def pass_once(self) -> PassResult:
        """Steps 1 to 4 once. Never raises for a broker or a database that is away."""
        try:
            producer = self._producer
            if producer is None:
                async with self._connect() as conn:
                    if not (await outbox.backlog(conn, self.topic, limit=1)).rows:
                        return PassResult(0, more=False)
                # Before the transaction: an outage of the broker must not hold a connection of the store.
                started = await self._start()
                if isinstance(started, str):
                    return PassResult(0, more=False, failure=started)
                producer = started
            async with self._connect() as conn, conn.transaction():
                if self._ordered and not await outbox.lock_order(conn, self.topic):
                    return PassResult(0, more=False)
                rows = await outbox.claim(
                    conn, [self.topic], limit=self._limits.batch_rows, max_bytes=self._limits.batch_bytes
                )
                if not rows:
                    return PassResult(0, more=False)
                acknowledged, failure = await self._send(producer, rows)
                if acknowledged:
                    await outbox.mark_sent(conn, acknowledged)
        except DATABASE_ERRORS as error:
            if classify(error) == "fatal":
                raise
            _log.warning(
                "The outbox cannot be read.",
                action="relay_database",
                topic=self.topic,
                error=type(error).__name__,
            )
            return PassResult(0, more=False, failure="database")
        self._metrics.sent(self.topic, len(acknowledged))
        return PassResult(len(acknowledged), more=not failure, failure=failure)

    async def _send(self, producer: AIOKafkaProducer, rows: list[ClaimedRow]) -> tuple[list[int], str]:
        """Step 3: ids that the broker acknowledged, and why the rest was not ('' for none)."""
        acknowledged: list[int] = []
        self._refused = False
        try:
            if self._ordered:
                async with asyncio.timeout(self._limits.send_timeout):
                    for row in rows:
                        await self._deliver(producer, row)
                        acknowledged.append(row.id)
            else:
                await self._send_together(producer, rows, acknowledged)
        except BROKER_ERRORS as error:
            # After a long outage its metadata is stale; a new producer costs two round trips.
            await self._drop_producer()
            if acknowledged and self._refused:
                return acknowledged, ""  # those that came after the refused one go with the next pass
            return acknowledged, self._waiting(error)
        if self._refused:
            await self._drop_producer()
        return acknowledged, ""

    def _waiting(self, error: BaseException) -> str:
        """Say that rows have to wait, and why: the reason for the metric."""
        operator = isinstance(error, NEEDS_OPERATOR)
        (_log.error if operator else _log.warning)(
            "Announcements wait in the outbox.",
            action="relay_wait",
            topic=self.topic,
            error=type(error).__name__,
        )
        return "operator" if operator else "broker"

    async def _send_together(
        self, producer: AIOKafkaProducer, rows: list[ClaimedRow], acknowledged: list[int]
    ) -> None:
        """Send all rows; those that were acknowledged count even where others were not."""
        # Futures, not a task for each row: half the time of this loop.
        waiting: list[tuple[ClaimedRow, asyncio.Future[Any]]] = []
        refused: list[ClaimedRow] = []
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(self._limits.send_timeout):
                for row in rows:
                    try:
                        future = await producer.send(
                            row.topic, value=row.payload, key=row.key, headers=list(row.headers)
                        )
                    except TOO_LARGE:
                        refused.append(row)
                    else:
                        waiting.append((row, future))
                if waiting:
                    await asyncio.wait([future for _, future in waiting])
        except BROKER_ERRORS as error:
            failure = error
        finally:
            for _, future in waiting:
                future.cancel()  # only those that are not done: nobody will look at them any more
        for row, future in waiting:
            reason = None if future.cancelled() else future.exception()
            if future.cancelled():
                failure = failure or TimeoutError("no acknowledgement in time")
            elif reason is None:
                acknowledged.append(row.id)
            elif isinstance(reason, TOO_LARGE):
                refused.append(row)
            elif isinstance(reason, BROKER_ERRORS):
                failure = failure or reason
            else:
                raise reason
        for row in refused:
            self._refused = True
            await self._deliver_alone(row)
            acknowledged.append(row.id)
        if failure is not None:
            raise failure

    async def _deliver(self, producer: AIOKafkaProducer, row: ClaimedRow) -> None:
        try:
            await producer.send_and_wait(row.topic, value=row.payload, key=row.key, headers=list(row.headers))
        except TOO_LARGE:
            self._refused = True
            await self._deliver_alone(row)

    async def _deliver_alone(self, row: ClaimedRow) -> None:
        """Send a row that was refused for its size, by a producer of its own.

        A batch is refused as a whole, so the row may be a small one that shared it; and the broker never saw
        the batch's sequence numbers, so that it takes nothing more from that producer for that partition.
        """
        headers = list(row.headers)
        try:
            await self._send_alone(row, row.payload, headers)
        except TOO_LARGE:
            if not row.payload:
                raise
            # The table keeps the bytes; a record that never leaves would hide that it is there.
            _log.warning(
                "The broker takes no record as large as this one: it leaves without its value.",
                action="relay_omit",
                topic=row.topic,
                outbox_id=row.id,
                bytes=len(row.payload),
            )
            await self._send_alone(row, None, [*headers, (OMITTED_HEADER, str(len(row.payload)).encode())])

    async def _send_alone(self, row: ClaimedRow, value: bytes | None, headers: list[Any]) -> None:
        producer = self._make_producer()
        try:
            await producer.start()
            await producer.send_and_wait(row.topic, value=value, key=row.key, headers=headers)
        finally:
            await producer.stop()

    async def _start(self) -> AIOKafkaProducer | str:
        """A started producer, or why there is none."""
        producer = self._make_producer()
        try:
            async with asyncio.timeout(self._limits.start_timeout):
                await producer.start()
        except BROKER_ERRORS as error:
            await producer.stop()
            return self._waiting(error)
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer
        return producer

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if self._ordered:
            # Its last records may still arrive until it has ended. The next producer, ours or that of another
            # process once this transaction lets the order go, must come after them.
            await producer.stop()
            return
        # stop() waits until everything buffered is sent or expires; the others need not wait for that.
        closing = asyncio.create_task(producer.stop(), name=f"close-producer-{self.topic}")
        self._closing[closing] = producer
        closing.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning(
                "A producer did not close.",
                action="relay_close",
                topic=self.topic,
                error=type(error).__name__,
            )

    async def _close_all(self) -> None:
        await self._drop_producer()
        if not self._closing:
            return
        await asyncio.wait(tuple(self._closing), timeout=3.0)
        for task, producer in tuple(self._closing.items()):
            task.cancel()
            await close_at_once(producer)

    async def _report_backlog(self) -> None:
        if self._clock.monotonic() < self._backlog_due:
            return
        self._backlog_due = self._clock.monotonic() + self._limits.backlog_interval
        try:
            async with self._connect() as conn:
                state = await outbox.backlog(conn, self.topic)
        except DATABASE_ERRORS as error:
            if classify(error) == "fatal":
                raise
            return  # the pass reports it; an old figure is better than a zero
        age = dt.timedelta() if state.oldest is None else self._clock.now() - state.oldest
        self._metrics.backlog(self.topic, state.rows, max(0.0, age.total_seconds()))

    async def _pause(self, stop: asyncio.Event, seconds: float, *, wakeable: bool) -> None:
        events = [stop, self._wake] if wakeable else [stop]
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
