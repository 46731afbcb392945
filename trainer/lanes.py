"""A lane takes jobs of some kinds from the queue, over a connection of its own, until it is told to stop.

Training has one lane, promotions and rollbacks another: neither waits for the other, and losing one connection
stops one lane. A lane that loses its connection makes another one; a job under way goes on meanwhile, and where
it is claimed a second time the locks of `trainer.supervision` decide.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sentinel import jobs, logs
from sentinel.backoff import full_jitter
from sentinel.errors import PoisonError
from sentinel.jobs import JobKind, JobPayload
from sentinel.store.engine import DATABASE_ERRORS, classify, raw_connection
from trainer.supervision import LaterError

if TYPE_CHECKING:
    from pgqueuer.domain.models import Job
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logs.get("trainer.lanes")

Handler = Callable[[JobPayload], Awaitable[None]]
"""Works on one job; raises LaterError where it must come again."""

_CHANNEL: Final = "ch_pgqueuer"
_LONGEST_PAUSE_S: Final = 15.0


class LaneOptions(Struct, frozen=True, kw_only=True):
    """How a lane looks for jobs. Times in seconds."""

    name: str
    """``train`` or ``serve``; others see by it that somebody takes these jobs."""
    concurrency: int
    """Jobs of one kind under way at the same time, over all trainers."""
    poll_interval: float
    heartbeat_timeout: float


class Lane:
    """Takes jobs and hands them to the handler of their kind."""

    def __init__(
        self,
        engine: AsyncEngine,
        options: LaneOptions,
        handlers: Mapping[JobKind, Handler],
        stopping: asyncio.Event,
    ) -> None:
        self._engine = engine
        self._options = options
        self._handlers = handlers
        self._stopping = stopping
        self.connected = asyncio.Event()

    @property
    def name(self) -> str:
        """``train`` or ``serve``."""
        return self._options.name

    async def run(self) -> None:
        """Take jobs until ``stopping``; returns when those under way have ended.

        Raises what asyncpg raises where the database refuses a statement: no repetition would help.
        """
        failures, rng = 0, random.Random()
        while not self._stopping.is_set():
            try:
                await self._serve()
            except DATABASE_ERRORS as error:
                if classify(error) in ("poison", "fatal"):
                    raise
                _log.warning(
                    "A lane lost its connection; it makes another one.",
                    action="lane_reconnect",
                    lane=self._options.name,
                    error=type(error).__name__,
                )
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2 + full_jitter(failures, 0.5, _LONGEST_PAUSE_S, rng)):
                        await self._stopping.wait()
                # One that was connected lost something new.
                failures = 0 if self.connected.is_set() else failures + 1
            finally:
                self.connected.clear()

    async def _serve(self) -> None:
        from pgqueuer.core.qm import QueueManager
        from pgqueuer.domain.types import Channel

        options = self._options
        async with raw_connection(self._engine) as conn:
            try:
                await jobs.announce_worker(conn, options.name)
                manager = QueueManager(jobs.queries(conn), channel=Channel(_CHANNEL))
                # A job that waits for its kind's place is "eligible", and would be asked for ten times a second.
                manager.min_dequeue_poll_interval = timedelta(seconds=min(1.0, options.poll_interval))
                for kind, handler in self._handlers.items():
                    manager.entrypoint(
                        kind.value,
                        concurrency_limit=options.concurrency,
                        accepts_context=False,
                        # What ends in a fault of ours stays visible (`sentinel doctor`) instead of vanishing.
                        on_failure="hold",
                    )(self._guarded(handler))
                stop = asyncio.create_task(self._stop(manager.shutdown), name=f"stop {options.name}")
                self.connected.set()
                try:
                    await manager.run(
                        dequeue_timeout=timedelta(seconds=options.poll_interval),
                        batch_size=1,
                        heartbeat_timeout=timedelta(seconds=options.heartbeat_timeout),
                    )
                finally:
                    stop.cancel()
            finally:
                # Its lock and its listener end with it; the pool must not hand them to anybody.
                conn.terminate()

    async def _stop(self, shutdown: asyncio.Event) -> None:
        await self._stopping.wait()
        shutdown.set()

    def _guarded(self, handler: Handler) -> Callable[[Job], Awaitable[None]]:
        """The handler as the queue calls it: it asks for a repetition in the queue's own way."""
        from pgqueuer.domain.errors import RetryRequested

        async def handle(job: Job) -> None:
            try:
                payload = jobs.decode(job.payload)
                await handler(payload)
            except PoisonError as error:
                _log.error("A job cannot be read; it is dropped.", action="job_dropped", reason=error.reason)
            except LaterError as error:
                raise RetryRequested(delay=error.pause, reason=str(error)) from error

        return handle
