"""The daemon's task around the rules: look at them now and then, and show what the store says about training."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from daemon.triggers.evaluator import Evaluator
from sentinel import logs
from sentinel.metrics import Metrics
from sentinel.settings import Settings
from sentinel.states import RunState
from sentinel.store import training, triggers
from sentinel.store.engine import DATABASE_ERRORS
from sentinel.store.training import TrainingRun

if TYPE_CHECKING:
    from sentinel.clock import Clock
    from sentinel.store.connections import Connect

_log = logs.get("daemon.triggers")

_LOOKING: Final = 0x53454E4C
"""Advisory lock: while one daemon looks, another need not. Nothing relies on it."""


class TriggerTask:
    """Runs beside the intake. A fault of the store is logged and the rules are looked at again later."""

    def __init__(self, settings: Settings, connect: Connect, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings.triggers
        self._served_models = tuple(settings.served_models)
        self._connect = connect
        self._metrics = metrics
        self._evaluator = Evaluator(settings.triggers, self._served_models, settings.training.recipe, clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until ``stop`` is set."""
        while not stop.is_set():
            try:
                await self.look()
            except DATABASE_ERRORS as error:
                _log.error(
                    "The triggers could not be looked at; they are again later.",
                    action="triggers",
                    error=error,
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.check_interval_s):
                    await stop.wait()

    async def look(self) -> None:
        """One look at the rules, where they are enabled, and at the runs. Raises what the database raises."""
        async with self._connect() as conn:
            if self._settings.enabled and await conn.fetchval("SELECT pg_try_advisory_lock($1)", _LOOKING):
                try:
                    await self._evaluator.look(conn)
                finally:
                    # A connection that was cut has given the lock back with itself.
                    if not conn.is_closed():
                        await conn.execute("SELECT pg_advisory_unlock($1)", _LOOKING)
            rules = await triggers.overview(conn)
            counts = await training.count_by_state(conn)
            newest = await training.newest_runs(conn)
        self._show_rules(rules)
        for served_model in self._served_models:
            for state in RunState:
                self._metrics.training_runs.set(
                    served_model, state, value=counts.get((served_model, state), 0)
                )
        self._show_runs(newest)

    def _show_rules(self, rules: Sequence[tuple[str, str, float | None, bool, int]]) -> None:
        for rule, served_model, value, armed, crossing in rules:
            if served_model in self._served_models:
                labels = (rule, served_model)
                self._metrics.trigger_value.set(*labels, value=math.nan if value is None else value)
                self._metrics.trigger_armed.set(*labels, value=armed)
                self._metrics.trigger_firings.set(*labels, value=crossing)

    def _show_runs(self, newest: Sequence[TrainingRun]) -> None:
        known = [run for run in newest if run.served_model in self._served_models]
        for run in known:
            self._metrics.training_progress.set(run.served_model, run.done)
            alive = run.heartbeat_at if run.state is RunState.RUNNING else None
            self._metrics.training_heartbeat.set(run.served_model, alive.timestamp() if alive else 0.0)
        if known:
            latest = max(known, key=lambda run: run.created_at)
            self._metrics.refinement_progress.set(refinement(latest))


def refinement(run: TrainingRun) -> float:
    """Share of the run's data set that is done, 0 to 1."""
    if run.dataset_id is not None:
        return 1.0
    return run.progress if run.step in ("pairs", "dataset") else 0.0
