"""Adapters and their states. The database refuses every move that `sentinel.states` does not list.

All functions take a raw asyncpg connection and raise asyncpg's errors; each statement stands or falls with the
caller's transaction.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.manifests import AdapterManifest
from sentinel.states import AdapterState

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_COLUMNS = "adapter, served_model, run_id, state, path, weights_sha256, created_at"

_INSERT = """
INSERT INTO adapters (adapter, served_model, run_id, state, path, weights_sha256, manifest)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)
ON CONFLICT (adapter) DO NOTHING RETURNING adapter
"""

_HISTORY = """
SELECT adapter, new_state, at FROM adapter_moves WHERE adapter = ANY($1::text[]) ORDER BY id
"""


class AdapterRow(Struct, frozen=True, kw_only=True):
    """One row of ``adapters``, its manifest left out."""

    adapter: str
    served_model: str
    run_id: UUID | None
    state: AdapterState
    path: Path
    """Its folder: the run's own, and from ``loading`` on that in ``adapters.store``."""
    weights_sha256: str
    created_at: dt.datetime


class Move(Struct, frozen=True):
    """One state that an adapter entered."""

    state: AdapterState
    at: dt.datetime


class StaleStateError(CommandError):
    """The adapter is not in the state that the caller saw; nothing was changed."""


async def insert_adapter(
    conn: Connection,
    manifest: AdapterManifest,
    path: Path,
    state: AdapterState = AdapterState.CANDIDATE,
) -> bool:
    """Store a new adapter; False where it is known already (a step that was killed is simply done again).

    Raises:
        CommandError: the name is taken by other weights or by another served model.
    """
    name = await conn.fetchval(
        _INSERT,
        manifest.adapter,
        manifest.served_model,
        manifest.run_id,
        state.value,
        str(path),
        manifest.weights_sha256,
        manifest.model_dump_json(),
    )
    if name is not None:
        return True
    known = await adapter_of(conn, manifest.adapter)
    if known is None or (known.weights_sha256, known.served_model) != (
        manifest.weights_sha256,
        manifest.served_model,
    ):
        raise CommandError(f"the adapter name {manifest.adapter} belongs to other weights")
    return False


async def move(
    conn: Connection, adapter: str, old: AdapterState, new: AdapterState, *, path: Path | None = None
) -> None:
    """Take an adapter from ``old`` to ``new``, and to another folder where ``path`` is given.

    Raises:
        StaleStateError: it is not in ``old`` any more (or there is no such adapter).
        asyncpg.CheckViolationError: the move is none of the legal ones.
    """
    moved = await conn.fetchval(
        "UPDATE adapters SET state = $3, path = coalesce($4, path) WHERE adapter = $1 AND state = $2"
        " RETURNING adapter",
        adapter,
        old.value,
        new.value,
        None if path is None else str(path),
    )
    if moved is None:
        raise StaleStateError(f"the adapter {adapter} is not {old.value} any more")


async def adapter_of(conn: Connection, adapter: str) -> AdapterRow | None:
    """The adapter of that name."""
    return _one(await conn.fetchrow(f"SELECT {_COLUMNS} FROM adapters WHERE adapter = $1", adapter))  # noqa: S608 - our own columns


async def adapter_of_run(conn: Connection, run_id: UUID) -> AdapterRow | None:
    """The adapter that a training run made, the newest where it made several."""
    return _one(
        await conn.fetchrow(
            f"SELECT {_COLUMNS} FROM adapters WHERE run_id = $1"  # noqa: S608 - our own columns
            " ORDER BY created_at DESC, adapter LIMIT 1",
            run_id,
        )
    )


async def find_adapter(conn: Connection, given: str) -> AdapterRow:
    """The adapter that a person means: its name or a unique beginning of it, or the id of its run, or of that.

    Raises:
        CommandError: none or several fit.
    """
    exact = await adapter_of(conn, given)
    if exact is not None:
        return exact
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM adapters WHERE starts_with(adapter, $1) OR starts_with(run_id::text, $1)"  # noqa: S608 - our own columns
        " ORDER BY created_at DESC, adapter LIMIT 2",
        given.lower() if _is_hexadecimal(given) else given,
    )
    if len(rows) != 1:
        found = "several adapters begin" if rows else "no adapter begins"
        raise CommandError(f"{found} with {given!r}, or its run does: see `sentinel train adapters`")
    return _row(rows[0])


async def find_adapters(
    conn: Connection, served_model: str | None = None, *, limit: int = 1000
) -> list[AdapterRow]:
    """Adapters, newest first."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM adapters WHERE $1::text IS NULL OR served_model = $1"  # noqa: S608 - our own columns
        " ORDER BY created_at DESC, adapter LIMIT $2",
        served_model,
        limit,
    )
    return [_row(row) for row in rows]


async def names(conn: Connection) -> dict[str, str]:
    """The served model of every adapter that ever was."""
    return {
        row["adapter"]: row["served_model"]
        for row in await conn.fetch("SELECT adapter, served_model FROM adapters")
    }


async def history(conn: Connection, adapters: Sequence[str]) -> dict[str, tuple[Move, ...]]:
    """Every state that each of ``adapters`` entered, in order."""
    found: dict[str, list[Move]] = {name: [] for name in adapters}
    for row in await conn.fetch(_HISTORY, list(adapters)):
        found[row["adapter"]].append(Move(AdapterState(row["new_state"]), row["at"]))
    return {name: tuple(moves) for name, moves in found.items()}


def _is_hexadecimal(text: str) -> bool:
    return all(letter in "0123456789abcdefABCDEF-" for letter in text)


def _one(row: Any) -> AdapterRow | None:
    return None if row is None else _row(row)


def _row(row: Any) -> AdapterRow:
    run_id = row["run_id"]
    # The driver's own UUID type is one that no JSON library writes.
    return AdapterRow(
        **{
            **dict(row),
            "run_id": None if run_id is None else UUID(bytes=run_id.bytes),
            "state": AdapterState(row["state"]),
            "path": Path(row["path"]),
        }
    )
