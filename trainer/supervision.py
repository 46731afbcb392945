"""One training job: start the run's process, watch it, and write down how it ended.

1. lock       nobody else on this host supervises the run, and no process works in its folder
2. start      the process takes the folder's lock and begins its attempt in the database
3. watch      heartbeat and the end of the log into the row; asked to cancel, or to stop: SIGTERM, then SIGKILL
4. end        what the process wrote itself stands; else the attempt is repeated, or the run has failed

The process is the one that knows the attempt's number first. A number that grows further while ours lives
means that another host took the run over: ours is stopped, and nothing is written.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sentinel import logs
from sentinel.command_line import EX_USAGE
from sentinel.errors import EX_CONFIG, CommandError, FatalError, StaleAttemptError
from sentinel.jobs import JobPayload
from sentinel.settings import Training
from sentinel.states import RunState
from sentinel.store import training
from sentinel.store.engine import DATABASE_ERRORS, classify
from trainer.process import RunProcess, last_words, spoken
from trainer.run_directory import LOCK, LOG, folder_of, make_folder

if TYPE_CHECKING:
    import asyncpg

    from sentinel.store.connections import Connect

_log = logs.get("trainer.supervision")

SUPERVISOR_LOCK: Final = "supervisor.lock"
HOPELESS: Final = (EX_USAGE, EX_CONFIG)
"""Exit statuses that say: the same again ends the same."""
FROZEN_PAUSE_S: Final = 30.0


class LaterError(FatalError):
    """The job goes back to the queue and is claimed again after ``pause``; says nothing against it."""

    def __init__(self, why: str, pause_s: float) -> None:
        super().__init__(why)
        self.pause = timedelta(seconds=pause_s)


class _Ended(StrEnum):
    """Why the process is not watched any more."""

    BY_ITSELF = "by itself"
    CANCELLED = "cancelled"
    STOPPING = "stopping"
    STALE = "stale"


class Supervision:
    """Works on the training jobs of one trainer, one after the other."""

    def __init__(
        self,
        connect: Connect,
        settings: Training,
        runs_dir: Path,
        command: Callable[[UUID], Sequence[str]],
        stopping: asyncio.Event,
    ) -> None:
        """``command``: what works on a run, without the launcher. ``stopping``: the trainer shuts down."""
        self._connect = connect
        self._settings = settings
        self._runs_dir = runs_dir
        self._command = command
        self._stopping = stopping
        self.status = ""
        """What is under way, for people; empty where nothing is."""

    async def work(self, payload: JobPayload) -> None:
        """Bring one run to an end.

        Raises:
            LaterError: it is not at its end, and the job must come again.
        """
        try:
            run = await self._admitted(payload)
            if run is None:
                return
            folder = folder_of(self._runs_dir, run.served_model, run.run_id)
            make_folder(folder)
            with self._locked(folder):
                self.status = f"run {str(run.run_id)[:8]} of {run.served_model}"
                await self._supervise(run, folder)
        except StaleAttemptError as error:
            _log.warning(
                "A run was taken over.", action="run_taken_over", run_id=str(payload.run_id), error=str(error)
            )
        except DATABASE_ERRORS as error:
            if classify(error) in ("poison", "fatal"):
                raise
            raise LaterError("the database is away", self._settings.poll_interval_s) from error
        finally:
            self.status = ""

    async def _admitted(self, payload: JobPayload) -> training.TrainingRun | None:
        """The run, where something remains to be done for it."""
        async with self._connect() as conn:
            try:
                run = await training.run_of(conn, payload.run_id)
            except CommandError:
                _log.error("A job names no run.", action="job_dropped", run_id=str(payload.run_id))
                return None
            if run.final:
                return None
            if run.cancel_requested:
                attempt = await training.begin_attempt(conn, run.run_id)
                await training.finish(conn, run.run_id, attempt, RunState.CANCELLED)
                return None
            if starts_of(run) >= self._settings.attempts:
                # Whoever worked on it died with it each time.
                attempt = await training.begin_attempt(conn, run.run_id)
                why = f"its process and its trainer ended {starts_of(run)} times without a word"
                await self._finish(conn, run, attempt, RunState.FAILED, why)
                return None
            if reason := await training.frozen(conn, run.served_model):
                raise LaterError(reason, FROZEN_PAUSE_S)
        return run

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the supervisor's lock; raises LaterError where it, or the run's own, is taken."""
        with (folder / SUPERVISOR_LOCK).open("ab") as own:
            if not _take(own) or taken(folder):
                raise LaterError(f"another process works in {folder}", self._settings.poll_interval_s)
            yield

    async def _supervise(self, run: training.TrainingRun, folder: Path) -> None:
        ours = run.attempt + 1
        log = folder / LOG
        command = [*self._settings.launcher, *self._command(run.run_id)]
        process = await RunProcess.start(command, log)
        _log.info(
            "A run's process started.",
            action="run_started",
            run_id=str(run.run_id),
            served_model=run.served_model,
            attempt=ours,
            pid=process.pid,
        )
        try:
            why = await self._watch(run, ours, process)
            status = await process.stop(self._settings.kill_grace_s)
        except BaseException:
            # Not even a fault of ours may leave a process behind that nobody watches.
            await asyncio.shield(process.stop(0.0))
            raise
        _log.info(
            "A run's process ended.",
            action="run_ended",
            run_id=str(run.run_id),
            status=status,
            reason=why.value,
        )
        await self._settle(run, ours, why, status, process.log_tail(), folder)

    async def _watch(self, run: training.TrainingRun, ours: int, process: RunProcess) -> _Ended:
        """Report until the process ends or must be ended."""
        away = False
        while await process.wait(self._settings.report_interval_s) is None:
            if self._stopping.is_set():
                return _Ended.STOPPING
            try:
                async with self._connect() as conn:
                    now = await training.run_of(conn, run.run_id)
                    if now.attempt > ours:
                        return _Ended.STALE
                    if now.final:
                        # Its last act; it may still be closing files.
                        continue
                    cancel = now.cancel_requested
                    if now.attempt == ours:
                        cancel = await training.heartbeat(conn, run.run_id, ours, process.log_tail())
                        self.status = (
                            f"run {str(run.run_id)[:8]} of {run.served_model}: {now.step or 'starting'}"
                        )
                    if cancel:
                        return _Ended.CANCELLED
                away = False
            except StaleAttemptError:
                # It finished between the two statements, or is another's: the next round tells.
                continue
            except DATABASE_ERRORS as error:
                if classify(error) in ("poison", "fatal"):
                    raise
                if not away:
                    _log.warning(
                        "A run's reports cannot be stored; it goes on.",
                        action="report",
                        run_id=str(run.run_id),
                        error=type(error).__name__,
                    )
                away = True
        return _Ended.BY_ITSELF

    async def _settle(
        self, run: training.TrainingRun, ours: int, why: _Ended, status: int, tail: str, folder: Path
    ) -> None:
        """Write down how it ended, where the process did not."""
        async with self._connect() as conn:
            now = await training.run_of(conn, run.run_id)
            if now.final or now.attempt > ours:
                return
            if now.attempt < ours:
                # It never came so far: this start counts all the same.
                if taken(folder) and why is _Ended.BY_ITSELF:
                    raise LaterError(f"another process works in {folder}", self._settings.poll_interval_s)
                await training.begin_attempt(conn, run.run_id)
            await training.heartbeat(conn, run.run_id, ours, tail)
            if why is _Ended.CANCELLED:
                await self._finish(conn, run, ours, RunState.CANCELLED, "")
            elif why is _Ended.STOPPING:
                await training.note_interruption(conn, run.run_id, ours)
                raise LaterError("the trainer stops", 0.0)
            else:
                await self._ended_by_itself(conn, now, ours, status, tail)

    async def _ended_by_itself(
        self, conn: asyncpg.Connection[Any], run: training.TrainingRun, ours: int, status: int, tail: str
    ) -> None:
        said = last_words(tail)
        error = f"{spoken(status)}: {said}" if said else spoken(status)
        starts = ours - interruptions_of(run)
        if status == 0 or status in HOPELESS or starts >= self._settings.attempts:
            # With 0 too: a process that did all its work has written its end itself.
            await self._finish(conn, run, ours, RunState.FAILED, error)
            return
        _log.warning(
            "A run's process failed; it is started again.",
            action="run_retry",
            run_id=str(run.run_id),
            attempt=ours,
            status=status,
        )
        raise LaterError(error, self._settings.retry_pause_s)

    async def _finish(
        self,
        conn: asyncpg.Connection[Any],
        run: training.TrainingRun,
        attempt: int,
        state: RunState,
        error: str,
    ) -> None:
        await training.finish(conn, run.run_id, attempt, state, error)
        say = _log.error if state is RunState.FAILED else _log.info
        say(
            "A run ended.",
            action="run_finished",
            run_id=str(run.run_id),
            served_model=run.served_model,
            state=state.value,
            attempt=attempt,
        )


def interruptions_of(run: training.TrainingRun) -> int:
    """Attempts that were stopped from outside; they count neither for nor against the run."""
    return int(run.config.get("interruptions", 0))


def starts_of(run: training.TrainingRun) -> int:
    """Attempts that count."""
    return run.attempt - interruptions_of(run)


def taken(folder: Path) -> bool:
    """Whether a process works in a run's folder now."""
    with (folder / LOCK).open("ab") as lock:
        return not _take(lock)


def _take(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
