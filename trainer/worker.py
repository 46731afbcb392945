"""The trainer: takes jobs, lets processes of their own do the training, and moves adapters itself.

Start     engine, schema check, lanes, READY
Lanes     train   one run at a time, in a process of its own (trainer/supervision.py)
          serve   promotions and rollbacks, in this process: no torch, and no waiting for a training run
Stop      SIGTERM: no further job; a run gets SIGTERM and later SIGKILL, its job goes back to the queue;
          a promotion is left where it is after `training.kill_grace_s`: it can be resumed at each step.
          A second signal ends the process at once, and the kernel ends the run's.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

from sentinel import logs
from sentinel.errors import CommandError, FatalError, RetryableError
from sentinel.jobs import JobKind, JobPayload
from sentinel.notify import Notifier
from sentinel.settings import Settings, service_manager
from sentinel.store.admission import PromotionRefusedError, Refusal
from sentinel.store.connections import connect_to
from sentinel.store.engine import DATABASE_ERRORS, classify, create_engine
from sentinel.store.migrate import check_schema
from trainer.lanes import Handler, Lane, LaneOptions
from trainer.supervision import FROZEN_PAUSE_S, LaterError, Supervision

_log = logs.get("trainer.worker")

LANES: Final = ("train", "serve")
CHANGE_RETRY_S: Final = 15.0
"""Pause before a promotion or rollback is tried again, whose database or replicas were away."""

Change = Callable[[Settings, JobPayload], Awaitable[object]]
"""A promotion or a rollback. Resumable: it may be called again after it was cut off anywhere."""


class Worker:
    """One trainer process. `run` returns when it was stopped and what it had begun has been put down."""

    def __init__(
        self,
        settings: Settings,
        command: Callable[[UUID], Sequence[str]],
        *,
        lanes: Sequence[str] = LANES,
        changes: dict[JobKind, Change] | None = None,
    ) -> None:
        """``command``: what works on a run. ``changes``: other promotions and rollbacks than the product's."""
        self.settings = settings
        self.stopping = asyncio.Event()
        self.started = asyncio.Event()
        self.engine = create_engine(settings.database)
        self._connect = connect_to(self.engine)
        # A lane keeps its connection for as long as it lives: the pool's other users must not wait for it.
        self._lane_engine = create_engine(
            settings.database.model_copy(update={"pool_size": max(2, len(lanes))})
        )
        self.supervision = Supervision(
            self._connect, settings.training, settings.runs_dir, command, self.stopping
        )
        self._changes = changes
        self.lanes = [self._lane(name) for name in lanes]
        manager = service_manager()
        self._notifier = Notifier(manager.notify_socket)
        self._watchdog_s = manager.watchdog_s

    def stop(self) -> None:
        """Begin the graceful stop."""
        self.stopping.set()

    async def run(self) -> None:
        """Work until `stop`. Raises ConfigurationError and FatalError."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.engine.dispose)
            stack.push_async_callback(self._lane_engine.dispose)
            stack.callback(self._notifier.close)
            async with self._connect() as conn:
                await check_schema(conn)
            tasks = [asyncio.create_task(lane.run(), name=f"lane {lane.name}") for lane in self.lanes]
            tending = asyncio.create_task(self._tend(), name="tend")
            try:
                await self._wait([*tasks, tending])
                self._notifier.stopping()
                self._notifier.extend(self.settings.training.kill_grace_s + 15.0)
                _log.info("Stopping: no further job; what is under way is put down.", action="stop")
                await asyncio.gather(*tasks)
                _log.info("The trainer stopped.", action="stopped")
            finally:
                # Where one lane failed, the other must still put down what it has begun.
                self.stopping.set()
                tending.cancel()
                await asyncio.gather(*tasks, tending, return_exceptions=True)

    async def _wait(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Return when asked to stop; re-raise what ended a lane before."""
        stopped = asyncio.create_task(self.stopping.wait(), name="stop")
        try:
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    await task
                    if not self.stopping.is_set():
                        raise FatalError(f"the task {task.get_name()!r} ended by itself")
        finally:
            stopped.cancel()

    async def _tend(self) -> None:
        """READY once the lanes are connected, then signs of life and a status line."""
        for lane in self.lanes:
            await lane.connected.wait()
        self.started.set()
        self._notifier.ready()
        _log.info("The trainer takes jobs.", action="start", lanes=[lane.name for lane in self.lanes])
        while True:
            self._notifier.watchdog()
            self._notifier.status(self.supervision.status or "waiting for jobs")
            await asyncio.sleep(min(2.0, self._watchdog_s / 2) if self._watchdog_s else 2.0)

    def _lane(self, name: str) -> Lane:
        training = self.settings.training
        handlers: dict[JobKind, Handler]
        if name == "train":
            handlers = {JobKind.TRAIN: self.supervision.work}
        else:
            handlers = {JobKind.PROMOTE: self._change, JobKind.ROLLBACK: self._change}
        options = LaneOptions(
            name=name,
            concurrency=1 if name == "train" else training.serving_concurrency,
            poll_interval=training.poll_interval_s,
            heartbeat_timeout=training.heartbeat_timeout_s,
        )
        return Lane(self._lane_engine, options, handlers, self.stopping)

    async def _change(self, payload: JobPayload) -> None:
        """Promote or roll back; a refusal ends the job, an outage repeats it."""
        change = (self._changes or _changes())[payload.kind]
        task = asyncio.ensure_future(_finished(change(self.settings, payload)))
        stopped = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait([task], timeout=self.settings.training.kill_grace_s)
            if not task.done():
                raise LaterError("the trainer stops", 0.0)
            await task
        except PromotionRefusedError as error:
            if error.reason is Refusal.FROZEN:
                # The gate has said yes: the job waits for the thaw. What else changed meanwhile is asked again then.
                raise LaterError(str(error), FROZEN_PAUSE_S) from error
            _refused(payload, error)
        except CommandError as error:
            _refused(payload, error)
        except RetryableError as error:
            raise LaterError(str(error), CHANGE_RETRY_S) from error
        except DATABASE_ERRORS as error:
            if classify(error) in ("poison", "fatal"):
                raise
            raise LaterError("the database is away", CHANGE_RETRY_S) from error
        else:
            _log.info(
                "A change of service is done.",
                action="change",
                kind=payload.kind.value,
                served_model=payload.served_model,
            )
        finally:
            for one in (stopped, task):
                one.cancel()
            await asyncio.gather(stopped, task, return_exceptions=True)


def _refused(payload: JobPayload, error: CommandError) -> None:
    """Said in full: the gate, an approval, replicas that did not prove it."""
    _log.warning(
        "A change of service was refused.",
        action="change_refused",
        kind=payload.kind.value,
        served_model=payload.served_model,
        error=str(error),
    )


async def _finished(change: Awaitable[object]) -> None:
    await change


def _changes() -> dict[JobKind, Change]:
    from trainer.promote import run_promotion
    from trainer.rollback import run_rollback

    return {JobKind.PROMOTE: run_promotion, JobKind.ROLLBACK: run_rollback}


def handle_signals(worker: Worker, exit_now: Callable[[int], None] = os._exit) -> None:
    """SIGTERM and SIGINT stop gracefully; the second one ends the process at once (its run dies with it)."""

    def on_signal(number: int) -> None:
        if worker.stopping.is_set():
            exit_now(128 + number)
        worker.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
