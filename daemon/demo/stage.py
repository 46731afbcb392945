"""What every scenario of the demonstration stands on: traffic, waiting with a live view, and the store's word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from rich.live import Live

from daemon.demo import progress, summary
from daemon.demo.children import Child, Children
from sentinel.clock import Clock
from sentinel.embedded.stack import PUBLIC_NAME, SERVED_MODEL, EmbeddedStack
from sentinel.errors import UnavailableError
from sentinel.store.promotions import promoted

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

START_LIMIT_S: Final = 180.0
"""Time in which the route must answer; it waits for nobody, but three commands are read in at once."""
DRAIN_LIMIT_S: Final = 400.0
"""Time after the traffic in which everything must have been read and asked again."""
TRAINING_LIMIT_S: Final = 800.0
"""Time from the last traffic to a verdict; a busy machine takes several times as long as an idle one."""
CROSSING_S: Final = 8.0
"""Time after the last pair in which a run may still come where there are too few pairs to start one."""
CROSSING_LIMIT_S: Final = 90.0
"""Time after the last pair in which a crossed threshold must have started a run; rules are looked at every second."""
FOLLOW_LIMIT_S: Final = 120.0
"""Time in which the route must answer with what was promoted; it looks twice a second."""
PLACES: Final = 400
"""Requests under way at most, each two sockets of the route: where the model is slower than its users they wait."""


class Stage:
    """The running parts of one demonstration."""

    def __init__(
        self,
        stack: EmbeddedStack,
        children: Children,
        conn: Connection,
        folder: Path,
        clock: Clock,
        live: Live,
    ) -> None:
        self.stack = stack
        self.children = children
        self.conn = conn
        self.folder = folder
        self._clock = clock
        self._live = live
        self._began = clock.monotonic()
        self._logs: list[Path] = []
        self._rate = progress.Rate()
        self._lately = progress.Lately()

    # -- the service

    async def start_service(self, *, trainer: bool) -> None:
        """Start daemon, route and, where wanted, the trainer; return when the route answers."""
        self.children.start("run", service=True)
        self.children.start("route", service=True)
        if trainer:
            self.children.start("trainer", service=True)
        limit = self._clock.monotonic() + START_LIMIT_S
        async with aiohttp.ClientSession() as client:
            while self._clock.monotonic() < limit:
                self.children.check()
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.get(f"{self.route_url}/v1/models") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.1)
        raise UnavailableError(f"the route did not answer within {START_LIMIT_S:.0f} s")

    @property
    def route_url(self) -> str:
        """Address of the route, without ``/v1``."""
        return f"http://127.0.0.1:{self.stack.route_port}"

    # -- traffic

    def send(self, phase: str, *arguments: str) -> Child:
        """Start traffic through the route; ``phase`` names its log."""
        log = self.folder / f"traffic-{phase}.jsonl"
        self._logs.append(log)
        places = f"--max-in-flight={PLACES}"
        return self.children.start(
            "traffic", f"--model-url={self.route_url}", f"--log={log}", places, *arguments
        )

    def exchanges(self, phase: str) -> list[summary.Row]:
        """What was asked and answered in a phase."""
        log = self.folder / f"traffic-{phase}.jsonl"
        return summary.read_log(log) if log.exists() else []

    @property
    def answered(self) -> int:
        """Answers given by the route so far; each of them is one event."""
        return sum(log.read_bytes().count(b"\n") for log in self._logs if log.exists())

    async def traffic(self, phase: str, *arguments: str) -> list[summary.Row]:
        """Traffic from its first request until every event of it is stored and asked again."""
        sending = self.send(phase, *arguments)
        await self.until(f"traffic ({phase})", lambda _: _done(sending.ended), limit_s=None)
        await self.drained()
        return self.exchanges(phase)

    async def drained(self) -> progress.Progress:
        """Wait until all events are read and no finding waits to be asked again."""

        async def done(seen: progress.Progress) -> bool:
            return self._is_drained(seen)

        return await self.until("reading and asking again", done, limit_s=DRAIN_LIMIT_S)

    def _is_drained(self, seen: progress.Progress) -> bool:
        return seen.records + seen.lost >= self.answered and not seen.pending

    def brings_no_run(self, seen: progress.Progress) -> bool:
        """Whether everything was read and asked again, and there are too few pairs for a first training run."""
        wanted = self.stack.round_pairs
        return self._is_drained(seen) and not seen.fired and (wanted is None or seen.pairs < wanted)

    # -- waiting

    async def until(
        self,
        phase: str,
        done: Callable[[progress.Progress], Awaitable[bool]],
        *,
        limit_s: float | None,
    ) -> progress.Progress:
        """Show where things stand until ``done``.

        Raises UnavailableError when a child fails, or when ``limit_s`` seconds have passed.
        """
        limit = None if limit_s is None else self._clock.monotonic() + limit_s
        while True:
            self.children.check()
            seen = await progress.read(self.conn)
            seconds = self._clock.monotonic() - self._began
            rate = self._rate.at(seconds, seen.records)
            lately = self._lately.at(seconds, seen.scored, seen.unsafe)
            self._live.update(progress.table(seen, self.answered, seconds, phase, rate, lately))
            if await done(seen):
                return seen
            if limit is not None and self._clock.monotonic() > limit:
                raise UnavailableError(
                    f"'{phase}' did not end within {limit_s:.0f} s: {seen.records} of {self.answered} events read,"
                    f" {seen.pending} findings not asked again, run: {seen.run_state or 'none'}; see {self.folder}"
                )
            await asyncio.sleep(0.25)

    async def decided(self, *, runs: int) -> str:
        """Wait until the ``runs``-th training run ended and its adapter is promoted or refused; the state."""
        wanted = self.stack.round_pairs
        if wanted is None:
            return "none"  # nobody trains, so there is nothing to wait for
        found = "none"
        began = self._clock.monotonic()

        async def done(seen: progress.Progress) -> bool:
            nonlocal found
            found = await promotion_state(self.conn, runs)
            # A daemon that has little time looks late at its rules.
            enough = seen.pairs >= runs * wanted
            patience = CROSSING_LIMIT_S if enough else CROSSING_S
            return found not in {"none", "pending"} or (
                found == "none" and self._clock.monotonic() - began > patience
            )

        await self.until("training and gate", done, limit_s=TRAINING_LIMIT_S)
        if found == "promoted":
            await self._route_follows()
        return found

    async def _route_follows(self) -> None:
        """Wait until the route answers with what was promoted."""
        wanted = (await promoted(self.conn))[SERVED_MODEL].adapter or ""
        # The server refuses a conversation without messages, and no event is made of a refused call.
        question: dict[str, object] = {"model": PUBLIC_NAME, "messages": []}

        async def done(_: progress.Progress) -> bool:
            async with aiohttp.ClientSession() as client:
                with contextlib.suppress(aiohttp.ClientError):
                    url = f"{self.route_url}/v1/chat/completions"
                    async with client.post(url, json=question) as answer:
                        return answer.headers.get("x-sentinel-adapter", "") == wanted
            return False

        await self.until("the route follows", done, limit_s=FOLLOW_LIMIT_S)


async def _done(value: bool) -> bool:
    return value


_LAST = """
SELECT r.state AS run, a.state AS adapter, r.error
FROM training_runs r LEFT JOIN adapters a ON a.run_id = r.run_id
WHERE r.kind = 'train' ORDER BY r.created_at, r.run_id OFFSET $1 LIMIT 1
"""
_PENDING = frozenset({"candidate", "loading", "probing", "awaiting_approval", None})


async def promotion_state(conn: Connection, number: int) -> str:
    """How the ``number``-th run ended: none, pending, promoted, rejected, inconclusive, failed or rolled_back."""
    row = await conn.fetchrow(_LAST, number - 1)
    if row is None:
        return "none"
    if row["run"] in {"failed", "cancelled"}:
        return "failed"
    if row["run"] in {"queued", "running"} or row["adapter"] in _PENDING:
        return "pending"
    return "promoted" if row["adapter"] == "superseded" else str(row["adapter"])
