"""Reporting calls to Kafka behind the answers: a bounded queue, then a bounded spool, then counted drops.

`offer` is all that a request ever waits for, and it only appends to a list. While Kafka is away events go to the
spool; when it is back the spool is drained oldest first, also what an earlier process left.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from aiokafka.errors import KafkaError

from producers.kafka import NEEDS_OPERATOR, TOO_LARGE, close_at_once
from producers.route.events import Call, UnreadableCallError, events_of
from producers.route.metrics import RouteMetrics
from producers.route.spool import Spool
from sentinel import logs
from sentinel.errors import ConfigurationError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

_log = logs.get("producers.route.publish")

_BATCH: Final = 100
"""Calls taken from the queue at a time."""
_GATHER_S: Final = 0.05
"""Wait for so many: a request to Kafka costs as much processor time as several calls through the route."""
_TURN: Final = 8
"""Calls read in one go: those with long answers take their time, and requests wait that long for their turn."""
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 15.0
_AWAY = (KafkaError, OSError, TimeoutError)


class Publisher:
    """Turns calls into events and brings them to ``topic``. `run` is a task of its own."""

    def __init__(
        self,
        topic: str,
        make_producer: Callable[[], AIOKafkaProducer],
        spool: Spool,
        metrics: RouteMetrics,
        *,
        queue_bytes: int,
        send_timeout: float = 3.0,
        connect_timeout: float = 10.0,
    ) -> None:
        self._topic = topic
        self._make_producer = make_producer
        self._spool = spool
        self._metrics = metrics
        self._queue: deque[Call] = deque()
        self._queued = 0
        self._queue_bytes = queue_bytes
        self._send_timeout = send_timeout
        self._connect_timeout = connect_timeout
        self._producer: AIOKafkaProducer | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._disk = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._refused_bytes = sys.maxsize
        """Size of the smallest event that Kafka refused for its size."""

    def offer(self, call: Call) -> None:
        """Take a call whose answer is out. Never waits, never raises; without room it is dropped and counted."""
        if self._queued + call.size > self._queue_bytes:
            self._metrics.events.inc("dropped_queue")
            return
        self._queue.append(call)
        self._queued += call.size
        self._wake.set()

    async def start(self) -> None:
        """Find what an earlier process left. Raises ConfigurationError where the folder cannot be used."""
        try:
            await asyncio.to_thread(self._spool.open)
        except OSError as error:
            raise ConfigurationError(f"route.spool_dir cannot be used: {error.strerror}") from error
        self._metrics.spool_bytes.set(self._spool.size)

    def stop(self) -> None:
        """No more calls will be offered: `run` returns when those in the queue are in Kafka or on disk."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until `stop`."""
        connection = asyncio.create_task(self._keep_connected(), name="route-kafka")
        try:
            while not (self._stopping and not self._queue):
                await self._wake.wait()
                while self._queue:
                    if len(self._queue) < _BATCH and not self._stopping:
                        await asyncio.sleep(_GATHER_S)
                    await self._publish(await self._take())
                self._wake.clear()
                if self._stopping:
                    self._wake.set()
        finally:
            connection.cancel()
            await asyncio.gather(connection, return_exceptions=True)
            await self._drop_producer()
            if self._closing:
                await asyncio.wait(tuple(self._closing), timeout=5.0)
            async with self._disk:
                self._spool.close()

    async def _take(self) -> list[bytes]:
        """Events of the next calls."""
        events: list[bytes] = []
        for number in range(min(_BATCH, len(self._queue))):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            call = self._queue.popleft()
            self._queued -= call.size
            try:
                events += events_of(call)
            except UnreadableCallError as error:
                self._metrics.events.inc("dropped_unreadable")
                _log.warning("A call could not be reported.", action="event_unreadable", why=str(error))
        self._metrics.queue_bytes.set(self._queued)
        return events

    async def _publish(self, events: list[bytes]) -> None:
        left = events
        if self._producer is not None:
            left = await self._send(self._producer, events)
        if left:
            await self._keep(left)

    async def _keep(self, events: Sequence[bytes]) -> None:
        """To the disk; what does not fit is dropped and counted."""
        taken = 0
        try:
            async with self._disk:
                taken = await asyncio.to_thread(self._spool.append, events)
        except OSError as error:
            _log.error("The spool cannot be written.", action="spool_failed", error=type(error).__name__)
        self._metrics.events.inc("spooled", by=taken)
        if taken < len(events):
            self._metrics.events.inc("dropped_spool", by=len(events) - taken)
        self._metrics.spool_bytes.set(self._spool.size)

    async def _send(self, producer: AIOKafkaProducer, events: Sequence[bytes]) -> list[bytes]:
        """Send; returns what was not acknowledged in time, after which the producer is given up."""
        fitting = [event for event in events if len(event) < self._refused_bytes]
        self._metrics.events.inc("dropped_refused", by=len(events) - len(fitting))
        if not fitting:
            return []
        tasks = {asyncio.create_task(producer.send_and_wait(self._topic, event)): event for event in fitting}
        done, late = await asyncio.wait(tasks, timeout=self._send_timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        left = [tasks[task] for task in late]
        why = "TimeoutError" if late else ""
        for task in done:
            error = task.exception()
            if error is None:
                self._metrics.events.inc("published")
            elif isinstance(error, TOO_LARGE):
                # It will never be taken, on no later try either: a spool that begins with it must not stand still.
                self._refused_bytes = min(self._refused_bytes, len(tasks[task]))
                self._metrics.events.inc("dropped_refused")
                _log.warning(
                    "Kafka takes no event as large as this one.",
                    action="event_refused",
                    bytes=len(tasks[task]),
                )
                why = why or "refused"
            elif isinstance(error, _AWAY):
                left.append(tasks[task])
                why = type(error).__name__
            else:
                raise error
        if why:
            # A producer that lost a batch takes nothing more for that partition.
            await self._drop_producer()
        if left:
            self._metrics.publish_failures.inc()
            _log.warning(
                "Events wait on disk for Kafka.", action="publish_wait", error=why, waiting=len(left)
            )
        return left

    async def _keep_connected(self) -> None:
        """Have a producer whenever Kafka is there, and drain the spool with it."""
        backoff = _FIRST_BACKOFF_S
        while True:
            if self._producer is None:
                try:
                    await self._connect()
                except _AWAY as error:
                    self._metrics.publish_failures.inc()
                    (_log.error if isinstance(error, NEEDS_OPERATOR) else _log.warning)(
                        "Events cannot be sent to Kafka yet.",
                        action="publish_away",
                        topic=self._topic,
                        error=type(error).__name__,
                    )
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, _LONGEST_BACKOFF_S)
                    continue
            if not self._spool.size or await self._drain():
                backoff = _FIRST_BACKOFF_S
            else:
                backoff = min(backoff * 2, _LONGEST_BACKOFF_S)
            await asyncio.sleep(backoff)

    async def _connect(self) -> None:
        producer = self._make_producer()
        try:
            async with asyncio.timeout(self._connect_timeout):
                await producer.start()
                # Without the topic every event would wait for its time-out.
                await producer.partitions_for(self._topic)
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

    async def _drain(self) -> bool:
        """Send the spool as far as Kafka takes it; whether all of it went."""
        while (producer := self._producer) is not None:
            try:
                async with self._disk:
                    segment = await asyncio.to_thread(self._spool.oldest)
                if segment is None:
                    return True
                path, lines = segment
                for start in range(0, len(lines), _BATCH):
                    if await self._send(producer, lines[start : start + _BATCH]):
                        # All of the segment goes again; its ids are the same.
                        return False
                async with self._disk:
                    await asyncio.to_thread(self._spool.remove, path)
            except OSError as error:
                _log.error("The spool cannot be read.", action="spool_failed", error=type(error).__name__)
                return False
            self._metrics.spool_bytes.set(self._spool.size)
        return False

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        closing = asyncio.create_task(_close(producer), name="route-kafka-close")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _close(producer: AIOKafkaProducer) -> None:
    """End it; what it still holds was taken back already."""
    try:
        async with asyncio.timeout(2.0):
            await producer.stop()
    except _AWAY:
        await close_at_once(producer)
