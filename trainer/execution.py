"""The process that `sentinel trainer` starts for a run: takes the folder, begins an attempt, ends the run's row."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import suppress
from uuid import UUID

from sentinel import logs
from sentinel.clock import Clock
from sentinel.errors import CommandError, ConfigurationError, StaleAttemptError, TrainingError
from sentinel.settings import Settings
from sentinel.states import RunState
from sentinel.store import training
from sentinel.store.connections import Connect
from sentinel.store.engine import DATABASE_ERRORS
from trainer.connections import connections
from trainer.pipeline import run_pipeline
from trainer.reporting import Report, Stage
from trainer.run_directory import RunDirectory, folder_of
from trainer.steps import Steps

_log = logs.get("trainer.execution")

_REPORT_S = 0.5


async def execute(settings: Settings, run_id: UUID, clock: Clock, shown: Report) -> str:
    """Bring the run to its end; the gate's verdict. ``shown`` hears every stage as well.

    Raises:
        CommandError, ConfigurationError, TrainingError: the run has failed, and its row says why; the same again ends
            the same.
        Anything else: the attempt failed; the supervisor repeats it.
    """
    # Half of a short run would be spent on these imports; the model servers are asked meanwhile.
    warming = asyncio.create_task(asyncio.to_thread(_import_training), name="imports")
    try:
        async with connections(settings) as connect:
            async with connect() as conn:
                run = await training.run_of(conn, run_id)
            folder = folder_of(settings.runs_dir, run.served_model, run.run_id)
            with RunDirectory.hold(folder, clock) as directory:
                async with connect() as conn:
                    attempt = await training.begin_attempt(conn, run_id, str(folder))
                return await _attempt(settings, run, attempt, directory, connect, clock, shown, warming)
    finally:
        await warming


async def _attempt(
    settings: Settings,
    run: training.TrainingRun,
    attempt: int,
    directory: RunDirectory,
    connect: Connect,
    clock: Clock,
    shown: Report,
    imported: asyncio.Task[None],
) -> str:
    progress = _Progress(connect, run.run_id, attempt, shown)
    reporting = asyncio.create_task(progress.keep(), name="progress")
    try:
        directory.claim(run.run_id)
        directory.event("attempt", attempt=attempt)
        steps = Steps(settings, run, attempt, directory, connect, clock, progress.report, imported)
        verdict = await run_pipeline(steps)
    except (CommandError, ConfigurationError, TrainingError) as error:
        directory.event("failed", error=str(error))
        async with connect() as conn:
            await training.finish(conn, run.run_id, attempt, RunState.FAILED, str(error))
        raise
    finally:
        reporting.cancel()
        with suppress(asyncio.CancelledError):
            await reporting
    async with connect() as conn:
        await training.finish(conn, run.run_id, attempt, RunState.SUCCEEDED)
    directory.event("succeeded", verdict=verdict.value)
    return verdict.value


class _Progress:
    """The newest stage, written to the run's row now and then: stages come from threads, and often."""

    def __init__(self, connect: Connect, run_id: UUID, attempt: int, shown: Report) -> None:
        self._connect = connect
        self._run_id = run_id
        self._attempt = attempt
        self._shown = shown
        self._stage: Stage | None = None

    def report(self, stage: Stage) -> None:
        self._stage = stage
        self._shown(stage)

    async def keep(self) -> None:
        written: Stage | None = None
        while True:
            await asyncio.sleep(_REPORT_S)
            stage = self._stage
            if stage is None or stage == written:
                continue
            share = stage.done / stage.total if stage.total else 0.0
            try:
                async with self._connect() as conn:
                    await training.progress(conn, self._run_id, self._attempt, stage.step, share)
                written = stage
            except StaleAttemptError:
                # The supervisor stops us; what we still write is refused, attempt by attempt.
                return
            except DATABASE_ERRORS as error:
                # News of the progress may be late; the steps themselves meet the same outage and say so.
                _log.warning("Progress could not be stored.", action="progress", error=type(error).__name__)


def _import_training() -> None:
    for name in ("torch", "transformers", "peft", "trl"):
        importlib.import_module(name)
