"""The composition root: settings in, a running service out.

Start     engine, schema check, instance lock, partitions, health server, tasks, READY
Stop      1. SIGTERM: STOPPING, intake stops                      (consumer.stop_intake_s)
          2. events in flight are scored                          (consumer.drain_s)
          3. the last flush, the group's commit, leaving          (consumer.flush_s)
          4. what is unfinished stays unread for the next owner; a second signal ends the process at once
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from consumers.source import Source
from daemon.assembly import (
    Intake,
    code_version,
    make_policy,
    make_served,
    make_source,
)
from daemon.in_service import InService
from daemon.observation import GuardObservation
from daemon.outgoing import make_generators, make_relays, make_reprompter, spare_connections
from daemon.supervisor import Supervisor
from daemon.triggers.task import TriggerTask
from sentinel import logs
from sentinel.breaker import BreakerState
from sentinel.clock import Clock, SystemClock
from sentinel.errors import FatalError
from sentinel.guards.base import Guard, load_grammar
from sentinel.guards.configured import configured_guard
from sentinel.health import Health, HealthServer
from sentinel.metrics import Metrics
from sentinel.notify import Notifier
from sentinel.settings import Settings, service_manager
from sentinel.store.connections import connect_to
from sentinel.store.engine import DATABASE_ERRORS, create_engine
from sentinel.store.flush import Flushed
from sentinel.store.instance import InstanceLock
from sentinel.store.migrate import check_schema
from sentinel.store.partitions import ensure_partitions
from sentinel.store.retention import maintain

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logs.get("daemon.app")
_LEAVE_S = 10.0
"""After the last commit: leaving the group, closing connections."""


class Service:
    """One daemon. `run` returns when it was stopped and drained."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        guard: Guard | None = None,
        source: Source | None = None,
        engine: AsyncEngine | None = None,
        default_format: str | None = None,
        behind_offset: bool = True,
    ) -> None:
        """``behind_offset``: also ask again and announce; False leaves that to another process."""
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        categories = load_grammar(settings.guard.grammar).categories
        served = make_served(settings)
        self.metrics = Metrics(
            CollectorRegistry(),
            categories=categories,
            served_models=[model.name for model in served],
            replicas=[url for model in served for url in model.replicas],
        )
        self.engine = engine or create_engine(settings.database)
        self.guard: Guard = guard or configured_guard(settings, self.clock, GuardObservation(self.metrics))
        manager = service_manager()
        self.notifier = Notifier(manager.notify_socket)
        self.supervisor = Supervisor(
            {"poller": settings.daemon.poller_deadline_s, "writer": settings.daemon.writer_deadline_s},
            clock=self.clock,
            notifier=self.notifier,
            watchdog_s=manager.watchdog_s,
            loop_lag=self.metrics.loop_lag.observe,
            status=self._status,
        )
        self.intake = Intake(
            settings,
            engine=self.engine,
            guard=self.guard,
            served=served,
            source=source or make_source(settings),
            metrics=self.metrics,
            clock=self.clock,
            poller_tick=self.supervisor.ticker("poller"),
            writer_tick=self.supervisor.ticker("writer"),
            wrote=self._wrote,
            default_format=default_format,
        )
        connect = spare_connections(connect_to(self.engine), settings.database.pool_size)
        self._in_service = InService(settings, connect, served, self.metrics, self.clock)
        self._generators = make_generators(settings, served, self.clock)
        self._reprompter = make_reprompter(
            settings,
            connect,
            self.guard,
            self._generators,
            policy=make_policy(settings),
            metrics=self.metrics,
            clock=self.clock,
        )
        self._relays = make_relays(settings, connect, self.metrics, self.clock)
        self._triggers = TriggerTask(settings, connect, self.metrics, self.clock)
        self._behind_offset = behind_offset
        self._stop_behind_offset = asyncio.Event()
        self.health = HealthServer(
            settings.metrics.host,
            settings.metrics.port,
            setting="metrics.port, or daemon.instance for a further daemon on this host",
            exposition=self.metrics.exposition,
            live=self._live,
            ready=self._ready,
        )
        self.stopping = asyncio.Event()
        self.started = asyncio.Event()

    def stop(self) -> None:
        """Begin the graceful stop."""
        self.stopping.set()

    async def run(self, *, until_exhausted: bool = False) -> bool:
        """Serve until `stop` (or the end of a finite source). True when nothing taken in was left undone.

        Raises ConfigurationError and FatalError.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.engine.dispose)
            stack.push_async_callback(self.guard.aclose)
            stack.push_async_callback(self._generators.aclose)
            stack.push_async_callback(self._in_service.aclose)
            stack.callback(self.notifier.close)
            await self._prepare(stack)
            await self.health.start()
            stack.push_async_callback(self.health.stop)
            running = self._start_tasks()
            try:
                self.started.set()
                self.notifier.ready()
                _log.info(
                    "The daemon is running.",
                    action="start",
                    version=code_version(),
                    group=self.settings.kafka.group_id,
                    guard=self.guard.model,
                    policy=self.settings.policy.version,
                    metrics_port=self.health.port,
                )
                await self._wait(running.values(), until_exhausted=until_exhausted)
                return await self._stop_in_order(running)
            finally:
                for task in running.values():
                    task.cancel()
                await asyncio.gather(*running.values(), return_exceptions=True)
                await self.intake.scorer.close()
                await self.intake.loop.leave()

    # -- start -----------------------------------------------------------------------------------------------

    async def _prepare(self, stack: AsyncExitStack) -> None:
        self.metrics.set_build(
            version=code_version(), policy=self.settings.policy.version, guard=self.guard.guard_id
        )
        async with connect_to(self.engine)() as conn:
            await check_schema(conn)
            await ensure_partitions(
                conn, self.clock.now().date(), self.settings.retention.partitions_ahead_days
            )
        await self._in_service.prepare()
        if self.settings.kafka.instance_id is not None:
            lock = InstanceLock(self.engine, self.settings.kafka.group_id, self.settings.kafka.instance_id)
            await lock.acquire()
            stack.push_async_callback(lock.release)
            self._instance: InstanceLock | None = lock
        else:
            self._instance = None

    def _start_tasks(self) -> dict[str, asyncio.Task[None]]:
        """Every background task, by name; one that ends early stops the service."""
        work = {
            "loop": self.intake.loop.run(),
            "recorder": self.intake.recorder.run(),
            "supervisor": self.supervisor.run(),
            "guard-watch": self.intake.guard_breaker.watch(self.guard.probe),
            "maintenance": self._maintain(),
        }
        work |= self._in_service.work(self._stop_behind_offset, behind_offset=self._behind_offset)
        if self._behind_offset:
            work["reprompter"] = self._reprompter.run(self._stop_behind_offset)
            work["triggers"] = self._triggers.run(self._stop_behind_offset)
            for relay in self._relays:
                work[f"relay {relay.topic}"] = relay.run(self._stop_behind_offset)
        if self._instance is not None:
            work["instance"] = self._instance.watch()
        return {name: asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()}

    async def _maintain(self) -> None:
        """Retention and partitions ahead, now and then; a failure is logged and tried again."""
        while True:
            try:
                done = await maintain(self.engine, self.settings.retention, self.clock)
                if done.ran:
                    _log.info("Maintenance is done.", action="maintain", dropped=len(done.partitions_dropped))
            except DATABASE_ERRORS as error:
                _log.error("Maintenance failed; it runs again later.", action="maintain", error=error)
            await asyncio.sleep(self.settings.retention.check_interval_s)

    # -- stop ------------------------------------------------------------------------------------------------

    async def _wait(self, tasks: Iterable[asyncio.Task[None]], *, until_exhausted: bool) -> None:
        """Return when asked to stop; re-raise what ended a task before."""
        ends: list[Coroutine[Any, Any, bool]] = [self.stopping.wait()]
        if until_exhausted:
            ends.append(self.intake.loop.wait_exhausted())
        waiting = [asyncio.create_task(coroutine, name="end") for coroutine in ends]
        watched = list(tasks)
        everything: list[asyncio.Task[Any]] = [*waiting, *watched]
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in watched:
                if task.done():
                    await task
                    raise FatalError(f"the task {task.get_name()!r} ended by itself")
        finally:
            for end in waiting:
                end.cancel()

    async def _stop_in_order(self, running: dict[str, asyncio.Task[None]]) -> bool:
        consumer = self.settings.consumer
        self.notifier.stopping()
        # Settings may allow a longer drain than the unit: a kill in the middle of it would waste the work.
        self.notifier.extend(consumer.stop_intake_s + consumer.drain_s + 2 * consumer.flush_s + _LEAVE_S)
        _log.info("Stopping: intake first, then what is in flight, then the last flush.", action="stop")
        self.intake.loop.stop()
        await asyncio.wait([running["loop"]], timeout=consumer.stop_intake_s)
        done = await self.intake.scorer.drain(consumer.drain_s)
        done = await self.intake.recorder.settled(consumer.flush_s) and done
        with suppress(TimeoutError):
            async with asyncio.timeout(consumer.flush_s):
                await self.intake.loop.commit()
        self._stop_behind_offset.set()
        behind = [
            task
            for name, task in running.items()
            if name.startswith(("relay", "reprompter", "serving", "triggers"))
        ]
        if behind:
            await asyncio.wait(behind, timeout=consumer.flush_s)
        if not done:
            _log.warning(
                "Time ran out; what is unfinished is read again after the next start.", action="stop"
            )
        _log.info("The daemon stopped.", action="stopped", drained=done)
        return done

    # -- health ----------------------------------------------------------------------------------------------

    def _wrote(self, result: Flushed) -> None:
        """Rows were committed: what waits behind the offset need not sleep out its pause."""
        if result.findings:
            self._reprompter.wake()
            for relay in self._relays:
                relay.wake()

    def _live(self) -> Health:
        silent = sorted(self.supervisor.silent())
        return Health(
            not silent, tuple(f"{name} is silent" for name in silent), {"stopping": self.stopping.is_set()}
        )

    def _ready(self) -> Health:
        problems: list[str] = []
        loop = self.intake.loop
        if self.stopping.is_set():
            problems.append("stopping")
        if not loop.joined:
            problems.append("the consumer group is not joined yet")
        elif not loop.ready and not any(tracker.halted for tracker in loop.owned):
            problems.append("partitions are being taken over")
        problems += [
            f"{tracker.partition.topic}/{tracker.partition.partition} is halted ({tracker.halted})"
            for tracker in loop.owned
            if tracker.halted
        ]
        if self.intake.guard_breaker.state is not BreakerState.CLOSED:
            problems.append(f"the guard is away: {self.intake.guard_breaker.reason}")
        if not self.intake.recorder.available:
            problems.append("the database is away")
        elif loop.outage:
            problems.append(loop.outage)
        return Health(not problems, tuple(problems), self._facts())

    def _facts(self) -> dict[str, object]:
        owned = self.intake.loop.owned
        return {
            "partitions": len(owned),
            "in_flight": self.intake.scorer.in_flight,
            "to_write": self.intake.recorder.backlog,
            "span": sum(tracker.span for tracker in owned),
            "replicas": self._in_service.facts(),
        }

    def _status(self) -> str:
        facts = self._facts()
        state = "stopping" if self.stopping.is_set() else "ready" if self._ready().ok else "not ready"
        return (
            f"{state}: {facts['partitions']} partitions, {facts['in_flight']} in flight,"
            f" {facts['to_write']} to write, {facts['span']} open"
        )


def handle_signals(service: Service, exit_now: Callable[[int], None] = os._exit) -> None:
    """SIGTERM and SIGINT stop gracefully; the second one ends the process at once (the store is consistent)."""

    def on_signal(number: int) -> None:
        if service.stopping.is_set():
            exit_now(128 + number)
        service.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
