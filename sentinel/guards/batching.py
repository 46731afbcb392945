"""Micro-batches: texts of many events, gathered for a moment, in one request to the guard."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from sentinel.errors import SentinelError
from sentinel.guards.base import Guard, GuardRequest, Judgement

DEFAULT_SIZE: Final = 32
DEFAULT_LINGER_S: Final = 0.005
DEFAULT_BATCHES: Final = 16

_Entry = tuple[Sequence[GuardRequest], "asyncio.Future[list[Judgement]]"]


class BatchingGuard:
    """A `Guard` that joins concurrent `assess` calls of one event loop.

    A batch leaves when ``size`` texts wait, or ``linger`` seconds after the first of them came, and while
    fewer than ``batches`` requests are out; beyond that texts wait and the batches fill up. The texts of one
    call stay together. An error of a batch reaches every caller in it.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        size: int = DEFAULT_SIZE,
        linger: float = DEFAULT_LINGER_S,
        batches: int = DEFAULT_BATCHES,
    ) -> None:
        self._guard = guard
        self._size = size
        self._linger = linger
        self._batches = batches
        self._waiting: deque[_Entry] = deque()
        self._texts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._running: set[asyncio.Task[None]] = set()
        self.guard_id = guard.guard_id
        self.model = guard.model
        self.template = guard.template

    @property
    def waiting(self) -> int:
        """Texts that wait for a batch."""
        return self._texts

    @property
    def in_flight(self) -> int:
        """Batches at the guard."""
        return len(self._running)

    async def assess(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        """Judge ``requests`` in some batch; raises what the guard raises."""
        if not requests:
            return []
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Judgement]] = loop.create_future()
        self._waiting.append((requests, future))
        self._texts += len(requests)
        if self._texts >= self._size:
            self._leave()
        elif self._timer is None and not self._due:
            self._timer = loop.call_later(self._linger, self._lingered)
        return await future

    async def probe(self) -> bool:
        """Whether the guard judges a harmless text."""
        return await self._guard.probe()

    async def aclose(self) -> None:
        """Cancel what waits or runs, then close the guard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._texts = 0
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._guard.aclose()

    def _lingered(self) -> None:
        self._timer = None
        # Where all requests are out, the waiting texts go with the next one that comes back.
        self._due = True
        self._leave()

    def _leave(self) -> None:
        while (self._due or self._texts >= self._size) and len(self._running) < self._batches:
            batch: list[_Entry] = []
            texts = 0
            while self._waiting and (not texts or texts + len(self._waiting[0][0]) <= self._size):
                entry = self._waiting.popleft()
                self._texts -= len(entry[0])
                if not entry[1].done():
                    batch.append(entry)
                    texts += len(entry[0])
            if not self._waiting:
                self._due = False
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            if batch:
                task = asyncio.create_task(self._run(batch), name="guard-batch")
                self._running.add(task)
                task.add_done_callback(self._finished)
            if not self._waiting:
                return

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Its callers have it already.
            task.exception()
        if self._waiting:
            self._leave()

    async def _run(self, batch: list[_Entry]) -> None:
        try:
            judged = await self._guard.assess([request for requests, _ in batch for request in requests])
        except SentinelError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except BaseException as error:
            # A bug in the guard: no caller may wait for ever.
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            raise
        else:
            start = 0
            for requests, future in batch:
                end = start + len(requests)
                if not future.done():
                    future.set_result(judged[start:end])
                start = end
