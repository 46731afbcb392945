"""Jobs between the daemon and the trainer: a few ids on PgQueuer's queue; all else is read by ``run_id``.

A job is enqueued in the caller's transaction, so that a firing, its run and its job appear together or not at
all. The queue knows a job until it has ended; the history is in ``training_runs`` and ``promotions``.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from sentinel.errors import PoisonError

if TYPE_CHECKING:
    import asyncpg
    from pgqueuer.adapters.persistence.queries import Queries

    Connection = asyncpg.Connection[Any]

SCHEMA: Final = "pgqueuer"
"""The PostgreSQL schema of the queue's tables."""

_PRESENCE: Final = {"train": 0x53454E54, "serve": 0x53454E53}
"""Advisory locks that workers hold, shared, while they take jobs: by lane."""


class JobKind(StrEnum):
    """What a job does; its entry point has the same name."""

    TRAIN = "train"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    ERASE = "erase"
    REFIT = "refit"


SERVING_KINDS: Final = (JobKind.PROMOTE, JobKind.ROLLBACK)
"""Jobs that need no torch and never wait for a training run."""


class JobPayload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a job carries. Its form is frozen: a worker of the next release must read it."""

    schema_version: int = 1
    kind: JobKind
    run_id: UUID
    served_model: str
    trigger_firing_id: str | None = None
    """``<trigger>/<crossing>`` of the firing that asked for it; None where a person did."""

    @property
    def dedupe_key(self) -> str:
        """At most one job of a key is queued or under way."""
        return f"{self.kind.value}:{self.served_model}"


class Waiting(Struct, frozen=True):
    """Jobs of some kinds that nobody works on."""

    jobs: int
    oldest: dt.datetime | None


def queries(conn: Connection) -> Queries:
    """PgQueuer's statements over one connection, in the schema that the migrations made.

    The names are fixed, whatever PGQUEUER_* variables say: the migrations know no others.
    """
    from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
    from pgqueuer.adapters.persistence.qb import (
        DBSettings,
        QueryBuilderEnvironment,
        QueryQueueBuilder,
        QuerySchedulerBuilder,
    )
    from pgqueuer.adapters.persistence.queries import Queries

    settings = DBSettings.model_construct(db_schema=SCHEMA)
    return Queries(
        AsyncpgDriver(conn),
        qbe=QueryBuilderEnvironment(settings),
        qbq=QueryQueueBuilder(settings),
        qbs=QuerySchedulerBuilder(settings),
    )


async def enqueue(conn: Connection, payload: JobPayload) -> bool:
    """Put a job on the queue, in the caller's transaction where there is one.

    False (nothing written) where a job of the same kind and served model is queued or under way. Raises what
    asyncpg raises.
    """
    ids = await queries(conn).enqueue(
        payload.kind.value, msgspec.json.encode(payload), dedupe_key=payload.dedupe_key, on_conflict="skip"
    )
    return ids[0] is not None


def decode(raw: bytes | None) -> JobPayload:
    """A job's payload.

    Raises:
        PoisonError: it is none of ours, or of a release that this one does not know.
    """
    try:
        payload = msgspec.json.decode(raw or b"", type=JobPayload)
    except msgspec.DecodeError as error:
        raise PoisonError("bad_payload", str(error)) from error
    if payload.schema_version != 1:
        raise PoisonError("bad_payload", f"schema_version {payload.schema_version}")
    return payload


async def withdraw(conn: Connection, kind: JobKind, served_model: str) -> bool:
    """Take a job off the queue that no worker has claimed yet. Raises what asyncpg raises."""
    ids = await conn.fetch(
        "SELECT id FROM pgqueuer.pgqueuer WHERE dedupe_key = $1 AND status = 'queued' FOR UPDATE SKIP LOCKED",
        f"{kind.value}:{served_model}",
    )
    if ids:
        await queries(conn).mark_job_as_cancelled([row["id"] for row in ids])
    return bool(ids)


async def waiting(conn: Connection, *kinds: JobKind) -> Waiting:
    """Jobs of these kinds that are queued and due. Raises what asyncpg raises."""
    row = await conn.fetchrow(
        "SELECT count(*) AS jobs, min(created) AS oldest FROM pgqueuer.pgqueuer"
        " WHERE status = 'queued' AND execute_after <= now() AND entrypoint = ANY($1::text[])",
        [kind.value for kind in kinds],
    )
    assert row is not None  # noqa: S101 -- an aggregate has a row
    return Waiting(row["jobs"], row["oldest"])


async def held(conn: Connection) -> int:
    """Jobs that ended in an error which nobody expected; they are kept for a person to look at."""
    count: int = await conn.fetchval("SELECT count(*) FROM pgqueuer.pgqueuer WHERE status = 'failed'")
    return count


async def announce_worker(conn: Connection, lane: str) -> None:
    """Say that this session takes jobs of a lane (``train`` or ``serve``), for as long as it lives."""
    await conn.execute("SELECT pg_advisory_lock_shared($1)", _PRESENCE[lane])


async def workers(conn: Connection, lane: str) -> int:
    """How many sessions take jobs of a lane now."""
    count: int = await conn.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objsubid = 1"
        " AND objid = $1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        _PRESENCE[lane],
    )
    return count
