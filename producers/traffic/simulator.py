"""The simulator: arrivals at a rate, a bounded number of requests under way, one event for each answer."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from uuid import uuid4

import aiohttp
import orjson
from msgspec import Struct, field

from producers.route.headers import ADAPTER_HEADER, BASE
from producers.traffic.events import Exchange, is_answer
from producers.traffic.prompts import Prompt
from sentinel.clock import Clock
from sentinel.errors import UnavailableError

Publish = Callable[[Exchange, Prompt], Awaitable[None]]


class Counts(Struct):
    """What happened so far."""

    arrived: int = 0
    answered: int = 0
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """The failed ones by their reason: an HTTP status, what is wrong with the answer, or the error's name."""
    dropped: int = 0
    """Arrivals that found every place taken: a stuck model must not pile up tasks."""
    in_flight: int = 0

    def fail(self, reason: str) -> None:
        """Count a request that got no answer."""
        self.failed += 1
        self.failures[reason] = self.failures.get(reason, 0) + 1


class Simulator:
    """One run. ``counts`` may be read while it runs."""

    def __init__(
        self,
        *,
        model_url: str,
        model: str,
        prompts: Iterator[Prompt],
        gaps: Iterator[float],
        publish: Publish,
        clock: Clock,
        max_in_flight: int = 64,
        max_tokens: int = 48,
        timeout_s: float = 120.0,
    ) -> None:
        self.counts = Counts()
        self._url = f"{model_url.rstrip('/')}/v1/chat/completions"
        self._model = model
        self._prompts = prompts
        self._gaps = gaps
        self._publish = publish
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._max_tokens = max_tokens
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._unpublished: UnavailableError | None = None

    async def run(self, *, requests: int | None, seconds: float | None, stop: asyncio.Event) -> Counts:
        """Send until so many requests arrived, so many seconds passed, or ``stop``; then wait for the answers.

        Cancelled, it waits for nobody: what is under way counts as failed. Raises UnavailableError when an event
        could not be published; it stops sending then.
        """
        began = self._clock.monotonic()
        due = began
        tasks: set[asyncio.Task[None]] = set()
        connector = aiohttp.TCPConnector(limit=self._max_in_flight)
        async with aiohttp.ClientSession(timeout=self._timeout, connector=connector) as session:
            while not stop.is_set() and (requests is None or self.counts.arrived < requests):
                if self._unpublished is not None:
                    break
                due += next(self._gaps)
                if seconds is not None and due - began > seconds:
                    break
                # Behind schedule nothing is skipped: arrivals do not depend on how fast we are.
                await self._until(due, stop)
                self.counts.arrived += 1
                prompt = next(self._prompts)
                if self.counts.in_flight >= self._max_in_flight:
                    self.counts.dropped += 1
                    continue
                self.counts.in_flight += 1
                task = asyncio.create_task(self._exchange(session, prompt))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)
        if self._unpublished is not None:
            raise self._unpublished
        return self.counts

    async def _until(self, due: float, stop: asyncio.Event) -> None:
        wait = due - self._clock.monotonic()
        if wait <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait):
                await stop.wait()
        except TimeoutError:
            pass

    async def _exchange(self, session: aiohttp.ClientSession, prompt: Prompt) -> None:
        sent_at: dt.datetime = self._clock.now()
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": self._max_tokens,
            "temperature": 0,
        }
        try:
            async with session.post(self._url, data=orjson.dumps(body), headers=_JSON) as answer:
                if answer.status != 200:
                    self.counts.fail(f"HTTP {answer.status}")
                    return
                found = orjson.loads(await answer.read())
                served_by = answer.headers.get(ADAPTER_HEADER)
        except orjson.JSONDecodeError:
            self.counts.fail("no JSON")
            return
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.counts.fail(type(error).__name__)
            return
        except asyncio.CancelledError:
            self.counts.fail("interrupted")
            raise
        finally:
            self.counts.in_flight -= 1
        if not is_answer(found):
            self.counts.fail("no chat completion")
            return
        self.counts.answered += 1
        exchange = Exchange(
            event_id=uuid4(),
            sent_at=sent_at,
            answered_at=self._clock.now(),
            model=self._model,
            prompt=prompt.text,
            body=found,
            served_by=None if served_by == BASE else served_by,
        )
        try:
            await self._publish(exchange, prompt)
        except UnavailableError as error:
            # Raised in this task, nobody would see it before the run ends.
            self._unpublished = error


_JSON = {"content-type": "application/json"}
