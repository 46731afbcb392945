"""The replicas of every served model, kept at the desired state while the daemon runs.

Every daemon does it. That is harmless: a look changes only what is missing or retired, who comes second finds it
done, and each daemon's metrics and health are its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sentinel import logs
from sentinel.clock import Clock
from sentinel.metrics import Metrics
from sentinel.served import ServedModels
from sentinel.serving import ReplicaReport, ReplicaState, Serving
from sentinel.serving_assembly import make_serving
from sentinel.serving_desired import DesiredState, desired_state
from sentinel.settings import Settings
from sentinel.store.engine import DATABASE_ERRORS

if TYPE_CHECKING:
    from sentinel.store.connections import Connect


_log = logs.get("daemon.serving")

STATE_CODES: Final[Mapping[ReplicaState, int]] = {
    ReplicaState.OK: 1,
    ReplicaState.LAGGING: 2,
    ReplicaState.STALE: 3,
    ReplicaState.WRONG: 4,
    ReplicaState.DOWN: 5,
}
"""Values of ``sentinel_replica_state``; 0 before the first look."""

Looked = Callable[[str, Sequence[ReplicaReport]], Awaitable[None]]


class ReplicaMetrics:
    """What `Serving` reports, on the closed metric list."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def replica_state(self, served_model: str, replica: str, state: ReplicaState) -> None:
        """After each look."""
        self._metrics.replica_state.set(replica, STATE_CODES[state])

    def adapter_loaded(self, served_model: str, replica: str, seconds: float) -> None:
        """After each successful load."""
        self._metrics.adapter_load.observe(served_model, value=seconds)


class ServingTask:
    """`Serving` of each served model that has replicas; `run` serves all of them."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        served: ServedModels,
        *,
        metrics: Metrics,
        clock: Clock,
        looked: Looked | None = None,
    ) -> None:
        """``looked`` hears the reports of every look, with the served model's name."""
        self._connect = connect
        self._served = served
        self._looked = looked
        self._interval_s = settings.promotion.reconcile_interval_s
        observer = ReplicaMetrics(metrics)
        self._serving = {
            model.name: make_serving(settings, model.name, metrics=observer, clock=clock)
            for model in served
            if model.replicas
        }
        self._states: dict[str, ReplicaState] = {}

    async def aclose(self) -> None:
        """Close the connections to the replicas."""
        for serving in self._serving.values():
            await serving.aclose()

    async def run(self, stopping: asyncio.Event) -> None:
        """Look at all replicas, now and then, until ``stopping`` is set; what is away is not waited for."""
        await asyncio.gather(*(self._keep(serving, stopping) for serving in self._serving.values()))
        await stopping.wait()

    def facts(self) -> dict[str, str]:
        """State of each replica at the last look, for the health page; it does not decide readiness."""
        return {url: state.value for url, state in self._states.items()}

    async def _keep(self, serving: Serving, stopping: asyncio.Event) -> None:
        desired: DesiredState | None = None
        while not stopping.is_set():
            try:
                async with self._connect() as conn:
                    desired = await desired_state(conn, serving.served_model)
            except DATABASE_ERRORS as error:
                # Replicas restart during an outage too: the last desired state is still the best one.
                _log.warning("What ought to be loaded could not be read.", action="reconcile", error=error)
            except msgspec.DecodeError as error:
                _log.error("A gate report's probes are unreadable.", action="reconcile", error=error)
            if desired is not None:
                await self._look(serving, desired)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self._interval_s)

    async def _look(self, serving: Serving, desired: DesiredState) -> None:
        reports = await serving.reconcile(desired)
        for report in reports:
            self._served.learn_bases(serving.served_model, report.bases)
            self._tell(serving.served_model, report)
        if self._looked is not None:
            await self._looked(serving.served_model, reports)

    def _tell(self, served_model: str, report: ReplicaReport) -> None:
        for name in report.loaded:
            _log.info("An adapter was loaded.", action="reconcile", replica=report.replica, adapter=name)
        for name in report.unloaded:
            _log.info("An adapter was unloaded.", action="reconcile", replica=report.replica, adapter=name)
        before = self._states.get(report.replica)
        self._states[report.replica] = report.state
        if before is report.state or (before is None and report.state is ReplicaState.OK):
            return
        (_log.info if report.state is ReplicaState.OK else _log.warning)(
            "A replica's state changed.",
            action="reconcile",
            served_model=served_model,
            replica=report.replica,
            state=report.state.value,
            was=before.value if before else None,
            detail=report.detail or None,
        )
