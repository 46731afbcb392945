"""Behind the offset: claim a finding -> re-prompt -> score -> pair.

    claim      findings that are pending, or whose lease ran out, get a lease that is committed before any call
    re-prompt  the served model is asked again, with the safety instruction added, a bounded number of times
    score      the guard judges each answer, with the original conversation and without the instruction
    pair       one transaction, which begins with the lease: attempts, verdicts, state, and, where an answer was
               called safe, the pair (chosen: that answer, rejected: the one that made the finding)

A crash repeats calls, never rows. While a served model or the guard is away its findings are given back and
nobody is told that they were unsafe; the monitoring of new events goes on beside it.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
from msgspec import Struct

from daemon.generators import Generators
from daemon.second_answers import AwayError, SecondAnswers
from sentinel import logs
from sentinel.backoff import full_jitter
from sentinel.clock import Clock
from sentinel.errors import RetryableError
from sentinel.findings import ClaimedFinding, RepromptResult, RepromptState
from sentinel.metrics import BREAKER_CLOSED, BREAKER_OPEN, Metrics
from sentinel.store import reprompts
from sentinel.store.engine import DATABASE_ERRORS, classify

if TYPE_CHECKING:
    from sentinel.store.connections import Connect

    Connection = asyncpg.Connection[Any]

_log = logs.get("daemon.reprompting")


class RepromptLimits(Struct, frozen=True, kw_only=True):
    """Bounds of re-prompting; durations in seconds."""

    concurrency: int = 8
    poll_interval: float = 1.0
    """Pause of an idle task: findings of other processes, expired leases."""
    lease: float = 120.0
    """Renewed before each attempt, which must be allowed less time than this."""
    max_claims: int = 5
    first_backoff: float = 1.0
    """Pause after an outage of model, guard or database, doubled up to the longest."""
    longest_backoff: float = 60.0
    finding_backoff: float = 15.0
    """Pause of one finding whose calls fail while the server works, doubled with each claim."""
    pending_interval: float = 15.0


class _Pause:
    """Until when something is left alone, longer with each failure in a row."""

    def __init__(self, clock: Clock, first: float, longest: float) -> None:
        self._clock = clock
        self._first = first
        self._longest = longest
        self._failures = 0
        self._until = float("-inf")

    @property
    def over(self) -> bool:
        return self._clock.monotonic() >= self._until

    @property
    def away(self) -> bool:
        """Failed, and not seen at work since."""
        return self._failures > 0

    def failed(self, at_least: float | None = None) -> float:
        """Note a failure and return the pause in seconds."""
        step = full_jitter(self._failures, self._first, self._longest, random.Random())
        pause = max(self._first / 2, step, at_least or 0.0)
        self._failures += 1
        self._until = self._clock.monotonic() + pause
        return pause

    def worked(self) -> None:
        self._failures = 0
        self._until = float("-inf")


class Reprompter:
    """The task beside the pipeline. `run` it once; `wake` it when findings were recorded."""

    def __init__(
        self,
        connect: Connect,
        generators: Generators,
        answers: SecondAnswers,
        *,
        limits: RepromptLimits,
        metrics: Metrics,
        clock: Clock,
        enabled: bool = True,
    ) -> None:
        self._connect = connect
        self._generators = generators
        self._answers = answers
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._enabled = enabled
        self._wake = asyncio.Event()
        self._working: dict[asyncio.Task[None], ClaimedFinding] = {}
        self._pauses = {name: self._pause() for name in ("guard", "database", *generators.askable)}
        self._pending_due = float("-inf")

    def wake(self) -> None:
        """Findings were recorded: do not sleep out the pause."""
        self._wake.set()

    # -- the loop --------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``; what is under way then is given back, and asked again by whoever claims it."""
        await self._generators.prepare()
        try:
            while not stop.is_set():
                self._wake.clear()
                for task in [task for task in self._working if task.done()]:
                    del self._working[task]
                    task.result()  # a bug must stop the service, not the feature
                await self._claim()
                await self._rest(stop)
        finally:
            await self._give_back()

    async def _claim(self) -> None:
        free = self._limits.concurrency - len(self._working)
        if free <= 0 or not self._pauses["database"].over or not self._pauses["guard"].over:
            return
        askable = [name for name in self._generators.askable if self._pauses[name].over]
        unaskable = self._generators.unaskable
        if not self._enabled:
            askable, unaskable = [], (*self._generators.askable, *unaskable)
        try:
            async with self._connect() as conn:
                claim = await reprompts.claim(
                    conn,
                    lease_id=uuid4(),
                    lease_s=self._limits.lease,
                    max_claims=self._limits.max_claims,
                    limit=free,
                    served_models=askable,
                    unaskable=unaskable,
                )
                await self._report_pending(conn)
        except DATABASE_ERRORS as error:
            self._database_failed(error)
            return
        self._pauses["database"].worked()
        self._metrics.reprompts.inc("failed", by=claim.given_up)
        self._metrics.reprompts.inc("skipped", by=claim.skipped)
        for finding in claim.findings:
            self._working[asyncio.create_task(self._work(finding), name="reprompt")] = finding

    async def _rest(self, stop: asyncio.Event) -> None:
        """Until something is done, `stop`, or, with places free, until the wake or the poll interval."""
        events = [stop.wait()]
        free = len(self._working) < self._limits.concurrency
        if free:
            events.append(self._wake.wait())
        waits = [asyncio.create_task(event) for event in events]
        try:
            await asyncio.wait(
                [*waits, *self._working],
                timeout=self._limits.poll_interval if free else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _give_back(self) -> None:
        findings = [finding for task, finding in self._working.items() if not task.done()]
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        self._working.clear()
        if findings:
            # Not given back (no time, no database) they are claimed again when their leases run out.
            await self._release(findings, delay=0.0, refund=True, patience=3.0)

    # -- one finding -----------------------------------------------------------------------------------------

    async def _work(self, finding: ClaimedFinding) -> None:
        try:
            result = await self._answers.result(finding, self._renew)
        except AwayError as away:
            await self._put_off(finding, away)
            return
        if result is None:
            return  # the lease is another's, or the database is away: nothing may be stored
        self._pauses[finding.served_model].worked()
        self._show_models()
        if result.verdicts:
            self._pauses["guard"].worked()
        await self._store(finding, result)

    # -- the store -------------------------------------------------------------------------------------------

    async def _store(self, finding: ClaimedFinding, result: RepromptResult) -> None:
        try:
            async with self._connect() as conn:
                stored = await reprompts.store(conn, finding, result)
        except DATABASE_ERRORS as error:
            if _kind(error) == "missing_partition":
                # Retention dropped the event's day meanwhile: its texts and verdicts are gone.
                await self._store(finding, RepromptResult(state=RepromptState.SKIPPED))
                return
            if _kind(error) == "poison":
                _log.error("A re-prompt cannot be stored.", action="reprompt_store", error=error)
                await self._release([finding], delay=self._finding_pause(finding), refund=False)
                return
            self._database_failed(error)
            return
        if not stored:
            _log.warning("A lease was lost; another process has the finding.", action="reprompt_lease")
            return
        self._metrics.reprompts.inc(result.state.value)
        for attempt in result.attempts:
            chosen = result.pair is not None and attempt.attempt == result.pair.attempt
            self._metrics.llm_reprompting.inc("success" if chosen else "fail")

    async def _renew(self, finding: ClaimedFinding) -> bool:
        try:
            async with self._connect() as conn:
                return await reprompts.renew(conn, finding, self._limits.lease)
        except DATABASE_ERRORS as error:
            self._database_failed(error)
            return False  # the lease runs out, and the finding is claimed again

    async def _put_off(self, finding: ClaimedFinding, away: AwayError) -> None:
        if away.outage:
            delay = self._pauses[away.target].failed(away.retry_after)
            self._show_models()
        else:
            delay = self._finding_pause(finding)
        _log.warning(
            "A second answer has to wait.",
            action="reprompt_wait",
            target="guard" if away.target == "guard" else "served_model",
            outage=away.outage,
            wait_s=round(delay, 1),
            error=away.__cause__,
        )
        await self._release([finding], delay=delay, refund=away.outage)

    async def _release(
        self, findings: list[ClaimedFinding], *, delay: float, refund: bool, patience: float = 30.0
    ) -> None:
        try:
            async with asyncio.timeout(patience), self._connect() as conn:
                await reprompts.release(conn, findings, delay_s=delay, refund=refund)
        except DATABASE_ERRORS as error:
            self._database_failed(error)

    def _database_failed(self, error: BaseException) -> None:
        if _kind(error) == "fatal":
            raise error
        pause = self._pauses["database"].failed()
        _log.warning("Re-prompts wait for the database.", action="reprompt_database", wait_s=round(pause, 1))

    async def _report_pending(self, conn: Connection) -> None:
        if self._clock.monotonic() >= self._pending_due:
            self._pending_due = self._clock.monotonic() + self._limits.pending_interval
            self._metrics.reprompts_pending.set(await reprompts.pending(conn))

    def _finding_pause(self, finding: ClaimedFinding) -> float:
        return min(600.0, self._limits.finding_backoff * 2.0 ** min(finding.claims - 1, 16))

    def _show_models(self) -> None:
        away = any(self._pauses[name].away for name in self._generators.askable)
        self._metrics.breaker_state.set("served_model", BREAKER_OPEN if away else BREAKER_CLOSED)

    def _pause(self) -> _Pause:
        return _Pause(self._clock, self._limits.first_backoff, self._limits.longest_backoff)


def _kind(error: BaseException) -> str:
    return "unavailable" if isinstance(error, RetryableError) else classify(error)
