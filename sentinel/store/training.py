"""Training runs: one queued or running a served model and kind, every write by the attempt that owns it.

A run is queued, then each start of its process is an *attempt* with a rising number. A process that was thought
dead may wake up and write; its number is older by then, and the write is refused. All functions take a raw
asyncpg connection and raise asyncpg's errors; none commits by itself when called inside a transaction.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import msgspec
import orjson
from msgspec import Struct

from sentinel.errors import CommandError, StaleAttemptError
from sentinel.states import RunState
from sentinel.store.headers import storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    Connection = asyncpg.Connection[Any]

STEPS: Final = ("dataset", "finetune", "evaluate", "gate")
"""Steps of a run in their order; pairs are collected at the beginning of the first."""

FINAL: Final = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
LOG_TAIL_CHARS: Final = 8_000
"""Newest characters of a run's log that its row holds; the whole log is in the run's folder."""
ERROR_CHARS: Final = 4_000


class TrainingRun(Struct, frozen=True, kw_only=True):
    """A run as stored. Times are the database's."""

    run_id: UUID
    served_model: str
    kind: str
    state: RunState
    attempt: int
    """Number of the newest start of its process; 0 before the first."""
    dataset_id: UUID | None
    config: dict[str, Any]
    progress: float
    """Share of ``step`` that is done, 0 to 1."""
    step: str
    error: str
    directory: str
    hypothesis: dict[str, Any]
    cancel_requested: bool
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    heartbeat_at: dt.datetime | None
    log_tail: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in FINAL

    @property
    def done(self) -> float:
        """Share of the whole run that is done, 0 to 1; each step counts the same."""
        if self.state is RunState.SUCCEEDED:
            return 1.0
        return (STEPS.index(self.step) + self.progress) / len(STEPS) if self.step in STEPS else 0.0


_COLUMNS = ", ".join(
    f"{name}::text AS {name}" if name in ("config", "hypothesis") else name
    for name in TrainingRun.__struct_fields__
    if name != "log_tail"
)


async def create_run(
    conn: Connection,
    run_id: UUID,
    served_model: str,
    kind: str = "train",
    config: Mapping[str, Any] | None = None,
) -> bool:
    """Add a queued run; False (nothing written) where one of that kind is queued or running already.

    ``config`` is what the run was started with: its recipe, who asked for it.
    """
    created = await conn.fetchval(
        "INSERT INTO training_runs (run_id, served_model, kind, config) VALUES ($1, $2, $3, $4::text::jsonb)"
        " ON CONFLICT (served_model, kind) WHERE state IN ('queued', 'running') DO NOTHING RETURNING TRUE",
        run_id,
        served_model,
        kind,
        orjson.dumps(dict(config or {}), default=str).decode(),
    )
    return bool(created)


async def begin_attempt(conn: Connection, run_id: UUID, directory: str = "") -> int:
    """Start the run's next attempt and return its number; every earlier attempt is stale from here on.

    Called by the run's own process once it holds the lock of the run's folder: a process that finds the folder
    taken must not make the other one stale.

    Raises:
        CommandError: there is no such run.
        StaleAttemptError: the run has ended.
    """
    attempt: int | None = await conn.fetchval(
        "UPDATE training_runs SET state = 'running', attempt = attempt + 1, heartbeat_at = now(), error = '',"
        " started_at = coalesce(started_at, now()), directory = coalesce(nullif($2, ''), directory)"
        " WHERE run_id = $1 AND state IN ('queued', 'running') RETURNING attempt",
        run_id,
        directory,
    )
    if attempt is None:
        run = await run_of(conn, run_id)
        raise StaleAttemptError(f"run {run_id} has ended as {run.state}")
    return attempt


async def progress(
    conn: Connection, run_id: UUID, attempt: int, step: str, share: float, log_tail: str | None = None
) -> bool:
    """Say where the run stands; a sign of life too. True when somebody asked to cancel it.

    ``share`` is the part of ``step`` that is done, 0 to 1; values outside are cut. ``log_tail`` None keeps the
    stored one.

    Raises:
        StaleAttemptError: another attempt owns the run, or it has ended.
    """
    return await _write(
        conn,
        run_id,
        attempt,
        "step = $3, progress = $4, log_tail = coalesce($5, log_tail), heartbeat_at = now()",
        step,
        min(1.0, max(0.0, share)),
        _tail(log_tail),
    )


async def heartbeat(conn: Connection, run_id: UUID, attempt: int, log_tail: str | None = None) -> bool:
    """A sign of life without news of the step; else as `progress`."""
    return await _write(
        conn,
        run_id,
        attempt,
        "log_tail = coalesce($3, log_tail), heartbeat_at = now()",
        _tail(log_tail),
    )


async def finish(
    conn: Connection, run_id: UUID, attempt: int, state: RunState | str, error: str = ""
) -> None:
    """End the run. ``state``: succeeded, failed or cancelled; ``error``: one paragraph for people.

    Raises:
        StaleAttemptError: another attempt owns the run, or it has ended.
        ValueError: the state is no end.
    """
    state = RunState(state)
    if state not in FINAL:
        raise ValueError(f"a run cannot end as {state}")
    done = ", progress = 1" if state is RunState.SUCCEEDED else ""
    await _write(
        conn,
        run_id,
        attempt,
        f"state = $3, error = $4, finished_at = now(){done}",
        state.value,
        storable(error[:ERROR_CHARS]),
    )


async def set_dataset(conn: Connection, run_id: UUID, attempt: int, dataset_id: UUID) -> None:
    """Note which data set the run trains on: its pairs are not fresh any more.

    Raises:
        StaleAttemptError: another attempt owns the run, or it has ended.
    """
    await _write(conn, run_id, attempt, "dataset_id = $3", dataset_id)


async def set_hypothesis(conn: Connection, run_id: UUID, attempt: int, hypothesis: Mapping[str, Any]) -> None:
    """Write down what the run will test, before it trains.

    Raises:
        StaleAttemptError: another attempt owns the run, or it has ended.
    """
    text = orjson.dumps(dict(hypothesis), default=str).decode()
    await _write(conn, run_id, attempt, "hypothesis = $3::text::jsonb", text)


async def set_directory(conn: Connection, run_id: UUID, attempt: int, directory: str) -> None:
    """Note where the run's files are.

    Raises:
        StaleAttemptError: another attempt owns the run, or it has ended.
    """
    await _write(conn, run_id, attempt, "directory = $3", directory)


async def note_interruption(conn: Connection, run_id: UUID, attempt: int) -> None:
    """The attempt was stopped from outside (its host shuts down): it says nothing against the run.

    Raises:
        StaleAttemptError: another attempt owns the run, or it has ended.
    """
    await _write(
        conn,
        run_id,
        attempt,
        "config = jsonb_set(config, '{interruptions}',"
        " to_jsonb(coalesce((config->>'interruptions')::int, 0) + 1))",
    )


async def request_cancel(conn: Connection, run_id: UUID, *, silent_s: float = 600.0) -> RunState:
    """Cancel a queued run at once, ask a running one to stop; the state that it is in afterwards.

    A running one that gave no sign of life for ``silent_s`` seconds has nobody who could stop it, and is
    cancelled at once too.

    Raises:
        CommandError: there is no such run, or it has ended.
    """
    state = await conn.fetchval(
        "WITH run AS (SELECT run_id, state = 'queued' OR heartbeat_at < now() - make_interval(secs => $2) AS idle"
        " FROM training_runs WHERE run_id = $1 AND state IN ('queued', 'running') FOR UPDATE)"
        " UPDATE training_runs AS t SET cancel_requested = true,"
        " state = CASE WHEN run.idle THEN 'cancelled' ELSE t.state END,"
        " finished_at = CASE WHEN run.idle THEN now() ELSE t.finished_at END"
        " FROM run WHERE t.run_id = run.run_id RETURNING t.state",
        run_id,
        silent_s,
    )
    if state is None:
        run = await run_of(conn, run_id)
        raise CommandError(f"run {run_id} has ended as {run.state}: there is nothing to cancel")
    return RunState(state)


async def run_of(conn: Connection, run_id: UUID, *, log: bool = False) -> TrainingRun:
    """One run; ``log``: with the tail of its log.

    Raises:
        CommandError: there is no such run.
    """
    row = await conn.fetchrow(_select(log=log) + " WHERE run_id = $1", run_id)
    if row is None:
        raise CommandError(f"there is no run {run_id}: `sentinel train runs` lists them")
    return _run(row)


async def runs(
    conn: Connection,
    *,
    served_model: str | None = None,
    kind: str | None = None,
    states: Sequence[RunState] = (),
    limit: int = 50,
) -> tuple[TrainingRun, ...]:
    """Runs, newest first, without their logs."""
    rows = await conn.fetch(
        _select(log=False)
        + " WHERE ($1::text IS NULL OR served_model = $1) AND ($2::text IS NULL OR kind = $2)"
        " AND (cardinality($3::text[]) = 0 OR state = ANY($3)) ORDER BY created_at DESC, run_id LIMIT $4",
        served_model,
        kind,
        [state.value for state in states],
        limit,
    )
    return tuple(_run(row) for row in rows)


async def newest_runs(conn: Connection) -> tuple[TrainingRun, ...]:
    """The newest training run of each served model, without its log."""
    rows = await conn.fetch(
        f"SELECT DISTINCT ON (served_model) {_COLUMNS} FROM training_runs WHERE kind = 'train'"  # noqa: S608
        " ORDER BY served_model, created_at DESC, run_id"
    )
    return tuple(_run(row) for row in rows)


async def count_by_state(conn: Connection) -> dict[tuple[str, RunState], int]:
    """Training runs by served model and state."""
    rows = await conn.fetch(
        "SELECT served_model, state, count(*) AS runs FROM training_runs WHERE kind = 'train' GROUP BY 1, 2"
    )
    return {(row["served_model"], RunState(row["state"])): row["runs"] for row in rows}


async def find_run(conn: Connection, beginning: str) -> TrainingRun:
    """The one run whose id begins so, with its log.

    Raises:
        CommandError: none does, or several do.
    """
    rows = await conn.fetch(
        _select(log=True) + " WHERE starts_with(run_id::text, lower($1)) ORDER BY created_at DESC LIMIT 2",
        beginning.strip(),
    )
    if len(rows) != 1:
        found = "several runs have ids" if rows else "no run has an id"
        raise CommandError(f"{found} that begin with {beginning!r}: `sentinel train runs` lists them")
    return _run(rows[0])


async def frozen(conn: Connection, served_model: Literal["*"] | str) -> str | None:
    """Why the served model is neither retrained nor promoted now; None where it is not frozen."""
    row = await conn.fetchrow(
        "SELECT served_model, actor, reason, since FROM freezes WHERE served_model IN ($1, '*') LIMIT 1",
        served_model,
    )
    if row is None:
        return None
    whose = "all served models are" if row["served_model"] == "*" else f"{served_model} is"
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{whose} frozen by {row['actor']} since {row['since']:%Y-%m-%d %H:%M}Z{reason}"


async def _write(conn: Connection, run_id: UUID, attempt: int, assignments: str, *values: Any) -> bool:
    asked = await conn.fetchval(
        f"UPDATE training_runs SET {assignments}"  # noqa: S608 -- assignments of this module
        " WHERE run_id = $1 AND attempt = $2 AND state = 'running' RETURNING cancel_requested",
        run_id,
        attempt,
        *values,
    )
    if asked is None:
        run = await run_of(conn, run_id)
        raise StaleAttemptError(
            f"run {run_id} is {run.state} in attempt {run.attempt}: attempt {attempt} may not write"
        )
    return bool(asked)


def _tail(text: str | None) -> str | None:
    return None if text is None else storable(text[-LOG_TAIL_CHARS:])


def _select(*, log: bool) -> str:
    return f"SELECT {_COLUMNS}{', log_tail' if log else ''} FROM training_runs"  # noqa: S608 -- our own names


def _run(row: Mapping[str, Any]) -> TrainingRun:
    values = {
        name: orjson.loads(value) if name in ("config", "hypothesis") else value
        for name, value in row.items()
    }
    return msgspec.convert(values, TrainingRun)
