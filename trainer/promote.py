"""An adapter's way into service, one durable step after the other.

    candidate | awaiting_approval ──admitted, copied──> loading ──on every live replica──> probing
        ──proven on every live replica──> promoted, announced, watched            (one transaction)

Every step begins with what the database says, so that a process killed anywhere leaves a legal state and the next
one goes on from there. Two at once do no harm: each move is made by whoever finds the state unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sentinel import logs
from sentinel.clock import Clock, SystemClock
from sentinel.errors import CommandError
from sentinel.intervals import wilson
from sentinel.promotions import Promotion
from sentinel.serving import ReplicaReport, ReplicaState, Serving, announceable
from sentinel.serving_assembly import make_serving
from sentinel.serving_desired import desired_state
from sentinel.states import AdapterState
from sentinel.store import promotions, watches
from sentinel.store.adapters import AdapterRow, StaleStateError, adapter_of, move
from sentinel.store.admission import PromotionRefusedError, Refusal, admit, in_service
from sentinel.store.audit import audit
from sentinel.store.connections import Connect
from trainer import adapter_store
from trainer.changes import ACTOR, ChangePayload, adapter_of_payload
from trainer.connections import connections
from trainer.reporting import Report, Stage, silent

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Settings

_log = logs.get("trainer.promote")

LOOK_S: Final = 0.5
"""Pause between two looks at replicas that are not there yet."""

STEPS: Final = ("admitted", "copied", "loading", "loaded", "probing", "proven", "promoted")
"""Names under which `promote` says how far it has come."""

_WAITING: Final = frozenset({AdapterState.CANDIDATE, AdapterState.AWAITING_APPROVAL})
_ENTERING: Final = frozenset({AdapterState.LOADING, AdapterState.PROBING})


class PromotionFailedError(CommandError):
    """The replicas did not come to serve the adapter; it is ``failed`` and what was in service stays."""


def _nothing(step: str) -> None:
    """Nobody listens."""


async def promote(
    connect: Connect,
    settings: Settings,
    served_model: str,
    adapter: str,
    *,
    actor: str,
    gate_report_id: UUID | None = None,
    serving: Serving | None = None,
    clock: Clock | None = None,
    report: Report = silent,
    passed: Callable[[str], None] = _nothing,
) -> Promotion:
    """Bring ``adapter`` into service, or finish what an earlier call began; the promotion where it is done already.

    ``passed`` hears the names of `STEPS` as they are behind it. Without ``serving`` the replicas of the settings are
    used.

    Raises:
        PromotionRefusedError: it may not enter service. Where waiting cannot help and it was on its way, it is
            ``failed``; where an approval is missing it is ``awaiting_approval``.
        PromotionFailedError: not every live replica proved it within ``promotion.probe_timeout_s``.
        CommandError: no such adapter or replica, or its files are not what they were.
        asyncpg's errors: the database; call again.
    """
    clock = clock or SystemClock()
    own = serving is None
    replicas = serving or make_serving(settings, served_model, clock=clock)
    way = _Way(connect, settings, replicas, clock, actor, gate_report_id, report, passed)
    try:
        return await way.go(served_model, adapter)
    finally:
        if own:
            await replicas.aclose()


async def run_promotion(settings: Settings, payload: ChangePayload) -> Promotion:
    """Promote the adapter that the run of a job's payload made. Raises as `promote`."""
    async with connections(settings) as connect:
        row = await adapter_of_payload(connect, payload)
        return await promote(connect, settings, payload.served_model, row.adapter, actor=ACTOR)


class _Way:
    """One call of `promote`."""

    def __init__(
        self,
        connect: Connect,
        settings: Settings,
        serving: Serving,
        clock: Clock,
        actor: str,
        gate_report_id: UUID | None,
        report: Report,
        passed: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._serving = serving
        self._clock = clock
        self._actor = actor
        self._gate_report_id = gate_report_id
        self._report = report
        self._passed = passed
        self._deadline = clock.monotonic() + settings.promotion.probe_timeout_s
        self._approvals = settings.promotion.approvals if settings.promotion.mode == "manual" else 0
        self._last: tuple[ReplicaReport, ...] = ()

    async def go(self, served_model: str, adapter: str) -> Promotion:
        stale_in: AdapterState | None = None
        while True:
            async with self._connect() as conn:
                row = await adapter_of(conn, adapter)
                if row is None or row.served_model != served_model:
                    raise CommandError(
                        f"{served_model} has no adapter {adapter}: see `sentinel train adapters`"
                    )
                if row.state is AdapterState.PROMOTED:
                    done = await promotions.newest(conn, served_model)
                    if done is not None and done.adapter == adapter:
                        return done
            try:
                change = await self._step(row)
            except StaleStateError:
                # Another process moved it: read again. Where nothing moved, the tables contradict each other.
                if stale_in is row.state:
                    raise
                stale_in = row.state
                continue
            if change is not None:
                self._passed("promoted")
                return change

    async def _step(self, row: AdapterRow) -> Promotion | None:
        """One move from the row's state, or one look at the replicas; the promotion where that was it."""
        if row.state not in _WAITING | _ENTERING:
            raise PromotionRefusedError(
                Refusal.STATE, f"{row.adapter} is {row.state.value}: it can not be promoted from there"
            )
        await self._admit(row)
        if row.state in _WAITING:
            self._tell("copied to the adapters' folder", 1)
            store = self._settings.adapters.store.absolute()
            place = await asyncio.to_thread(
                adapter_store.keep, store, row.adapter, row.path, row.weights_sha256
            )
            self._passed("copied")
            await self._move(row, AdapterState.LOADING, path=place)
            self._passed("loading")
            return None
        await self._look(row)
        if row.state is AdapterState.LOADING:
            if not self._loaded(row.adapter):
                await self._wait(row)
                return None
            self._passed("loaded")
            await self._move(row, AdapterState.PROBING)
            self._passed("probing")
            return None
        if not announceable(self._last, row.adapter):
            await self._wait(row)
            return None
        self._passed("proven")
        return await self._enter(row)

    async def _admit(self, row: AdapterRow) -> None:
        async with self._connect() as conn:
            try:
                await admit(conn, row, approvals=self._approvals, gate_report_id=self._gate_report_id)
            except PromotionRefusedError as refused:
                if row.state in _ENTERING and refused.reason.lasting:
                    await self._give_up(conn, row, str(refused))
                elif row.state is AdapterState.CANDIDATE and refused.reason is Refusal.APPROVALS:
                    await move(conn, row.adapter, row.state, AdapterState.AWAITING_APPROVAL)
                raise
        if row.state in _WAITING:
            self._passed("admitted")

    async def _look(self, row: AdapterRow) -> None:
        self._tell("loading" if row.state is AdapterState.LOADING else "probing", 2)
        async with self._connect() as conn:
            desired = await desired_state(conn, row.served_model)
        self._last = await self._serving.reconcile(desired)

    def _loaded(self, adapter: str) -> bool:
        """Whether every replica that is up serves the name, whatever it answers; at least one must be up."""
        up = [report for report in self._last if report.state is not ReplicaState.DOWN]
        return bool(up) and all(adapter in report.served for report in up)

    async def _wait(self, row: AdapterRow) -> None:
        if self._clock.monotonic() < self._deadline:
            await asyncio.sleep(LOOK_S)
            return
        found = "; ".join(f"{r.replica}: {r.state.value} {r.detail}".rstrip() for r in self._last)
        why = f"no proof on every replica within {self._settings.promotion.probe_timeout_s:g} s ({found})"
        async with self._connect() as conn:
            await self._give_up(conn, row, why)
        raise PromotionFailedError(f"{row.adapter} failed: {why}")

    async def _enter(self, row: AdapterRow) -> Promotion | None:
        watch = self._settings.promotion
        async with self._connect() as conn:
            incumbent = await in_service(conn, row.served_model)
            n, unsafe = await watches.live_rate(conn, row.served_model, incumbent)
            try:
                change = await promotions.enter_service(
                    conn,
                    row.adapter,
                    approvals=self._approvals,
                    gate_report_id=self._gate_report_id,
                    limit_rate=max(watch.watch_least_rate, wilson(unsafe, n).high),
                    alpha=watch.watch_alpha,
                    actor=self._actor,
                    topic=self._settings.kafka.promotions_topic,
                )
            except PromotionRefusedError:
                return None  # in the last moment: the next round's admission says why, and acts on it
        self._tell("in service", 3)
        _log.info(
            "An adapter is in service.",
            action="promote",
            served_model=row.served_model,
            adapter=row.adapter,
            previous=change.previous_adapter or "base",
            generation=change.generation,
        )
        return change

    async def _move(self, row: AdapterRow, new: AdapterState, **to: Any) -> None:
        async with self._connect() as conn:
            await move(conn, row.adapter, row.state, new, **to)

    async def _give_up(self, conn: asyncpg.Connection[Any], row: AdapterRow, why: str) -> None:
        async with conn.transaction():
            await move(conn, row.adapter, row.state, AdapterState.FAILED)
            await audit(conn, self._actor, "promotion failed", row.adapter, why=why)
        _log.error("A promotion failed; what was in service stays.", action="promote", error=why)

    def _tell(self, detail: str, done: int) -> None:
        self._report(Stage("promote", done, 3, detail))
