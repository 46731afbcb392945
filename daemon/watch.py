"""After a promotion: is the adapter worse than what it replaced? Then its rollback is asked for, once.

Two things ask for it: the sequential test of its live unsafe rate, and replicas that all, several looks in a row,
answer for it with other weights than were measured. A rate that falls never acts. Daemons share the work without
talking: the row of the watch changes its state once, in the transaction that enqueues the job.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from msgspec import Struct

from sentinel import logs
from sentinel.clock import Clock
from sentinel.jobs import JobKind, JobPayload, enqueue
from sentinel.metrics import Metrics
from sentinel.sequential import log_e_value
from sentinel.serving import ReplicaReport, ReplicaState
from sentinel.store import promotions, watches
from sentinel.store.adapters import adapter_of
from sentinel.store.audit import audit
from sentinel.store.engine import DATABASE_ERRORS
from sentinel.store.watches import Watch

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]
    from sentinel.store.connections import Connect

_log = logs.get("daemon.watch")

ACTOR: Final = "daemon"
"""Who acts, in the audit log."""


class WatchLimits(Struct, frozen=True, kw_only=True):
    """When the test may act, and when it ends without having acted."""

    interval_s: float = 5.0
    first: int = 200
    """Responses of the adapter before an alarm is believed."""
    responses: int = 2_000
    """Responses without alarm that count as proof."""
    hours: float = 24.0
    """Time without alarm that does."""
    wrong_looks: int = 3
    """Looks in a row at which every live replica answers wrongly."""


class PromotionWatch:
    """The test of every promotion under way, and the count of wrong looks."""

    def __init__(self, connect: Connect, limits: WatchLimits, *, metrics: Metrics, clock: Clock) -> None:
        self._connect = connect
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._wrong: dict[str, tuple[str, int]] = {}
        self._shown: set[str] = set()

    async def run(self) -> None:
        """Look until cancelled; while the database is away nothing can be concluded."""
        while True:
            try:
                await self.look()
            except DATABASE_ERRORS as error:
                _log.warning(
                    "The watch over a promotion waits for the database.", action="watch", error=error
                )
            await asyncio.sleep(self._limits.interval_s)

    async def look(self) -> None:
        """Count once for every promotion under watch, and act. Raises what the database raises."""
        async with self._connect() as conn:
            under_way = await watches.watching(conn)
            for watch in under_way:
                await self._judge(conn, watch)
        for served_model in self._shown - {watch.served_model for watch in under_way}:
            self._show(served_model, 0, 0.0)
        self._shown = {watch.served_model for watch in under_way}

    async def looked(self, served_model: str, reports: Sequence[ReplicaReport]) -> None:
        """Take the reports of one look at the replicas; never raises for the database.

        Only when no live replica is right is there nobody who could serve the adapter as it was measured.
        """
        up = [report for report in reports if report.state is not ReplicaState.DOWN]
        everywhere = frozenset.intersection(*(report.wrong for report in up)) if up else frozenset()
        if not everywhere:
            if up:
                self._wrong.pop(served_model, None)
            return
        try:
            async with self._connect() as conn:
                change = await promotions.newest(conn, served_model)
                if change is None or change.adapter not in everywhere:
                    self._wrong.pop(served_model, None)
                    return
                name, looks = self._wrong.get(served_model, (change.adapter, 0))
                looks = looks + 1 if name == change.adapter else 1
                self._wrong[served_model] = (change.adapter, looks)
                if looks >= self._limits.wrong_looks:
                    await self._alarm_by_probe(conn, served_model, change.adapter)
        except DATABASE_ERRORS as error:
            _log.warning("Wrong answers could not be noted.", action="watch", error=error)

    async def _judge(self, conn: Connection, watch: Watch) -> None:
        n, unsafe = await watches.tally(conn, watch)
        evidence = log_e_value(unsafe, n, watch.limit_rate)
        self._show(watch.served_model, n, evidence)
        if (n, unsafe) != (watch.responses, watch.unsafe):
            await watches.note(conn, watch, responses=n, unsafe=unsafe, log_e_value=evidence)
        if n >= self._limits.first and evidence >= -math.log(watch.alpha):
            await self._alarm(
                conn,
                watch.promotion_id,
                watch.served_model,
                watch.adapter,
                cause="rate",
                detail=f"{unsafe} of {n} responses are unsafe, and {watch.limit_rate:.4f} was the limit",
            )
        elif n >= self._limits.responses or self._age(watch) >= dt.timedelta(hours=self._limits.hours):
            async with conn.transaction():
                if await watches.lock_open(conn, watch.promotion_id):
                    await watches.settle(conn, watch.promotion_id, "proven")
                    await audit(conn, ACTOR, "promotion proven", watch.adapter, responses=n, unsafe=unsafe)

    def _age(self, watch: Watch) -> dt.timedelta:
        return self._clock.now() - watch.started_at

    async def _alarm_by_probe(self, conn: Connection, served_model: str, adapter: str) -> None:
        promotion_id = await watches.of_adapter(conn, served_model, adapter)
        if promotion_id is not None:
            looks = self._limits.wrong_looks
            await self._alarm(
                conn,
                promotion_id,
                served_model,
                adapter,
                cause="probe",
                detail=f"no live replica answers as it was measured, {looks} looks in a row",
            )

    async def _alarm(
        self,
        conn: Connection,
        promotion_id: UUID,
        served_model: str,
        adapter: str,
        *,
        cause: str,
        detail: str,
    ) -> None:
        """Ask for the rollback, exactly once for a promotion; again later where the queue would not take it."""
        row = await adapter_of(conn, adapter)
        run_id = None if row is None else row.run_id
        async with conn.transaction():
            if not await watches.lock_open(conn, promotion_id):
                return  # another daemon was first
            if run_id is not None:
                payload = JobPayload(kind=JobKind.ROLLBACK, run_id=run_id, served_model=served_model)
                if not await enqueue(conn, payload):
                    return  # an older rollback of this served model is under way: at the next look
            await watches.settle(conn, promotion_id, "alarmed")
            await audit(conn, ACTOR, "promotion alarm", adapter, cause=cause, detail=detail)
        self._metrics.rollbacks_requested.inc(served_model, cause)
        about = {"served_model": served_model, "adapter": adapter, "cause": cause, "detail": detail}
        if run_id is not None:
            _log.error("A rollback was asked for.", action="watch", **about)
        else:  # a job is found by the run of its adapter; one that no run made has none
            _log.error("Roll this adapter back by hand: `sentinel train rollback`.", action="watch", **about)

    def _show(self, served_model: str, responses: int, evidence: float) -> None:
        self._metrics.watch_responses.set(served_model, responses)
        self._metrics.watch_log_e_value.set(served_model, evidence)
