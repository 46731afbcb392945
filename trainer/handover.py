"""What a run leaves behind: its candidate as a row, and after a yes the way to promotion.

All functions take a raw asyncpg connection, inside the caller's transaction, and raise asyncpg's errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from sentinel import logs
from sentinel.errors import CommandError
from sentinel.jobs import JobKind, JobPayload, enqueue
from sentinel.manifests import AdapterManifest
from sentinel.states import AdapterState
from sentinel.store.adapters import adapter_of, insert_adapter, move

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_log = logs.get("trainer.handover")

To = Literal["promotion", "approval", "nobody", "earlier"]


async def register(conn: Connection, adapter: AdapterManifest, path: Path) -> None:
    """Store the candidate; one that this run stored before, or that nobody has decided on, is taken as it is.

    Raises:
        CommandError: an earlier run made the same weights, and they have their verdict; or the name is taken.
    """
    if await insert_adapter(conn, adapter, path):
        return
    known = await adapter_of(conn, adapter.adapter)
    if known is None or known.run_id == adapter.run_id or known.state is AdapterState.CANDIDATE:
        return
    raise CommandError(
        f"training made {adapter.adapter} again, which is {known.state.value}: the same pairs, recipe and seed give"
        " the same weights, and their verdict stands"
    )


async def hand_over(conn: Connection, adapter: str, run_id: UUID, *, mode: Literal["auto", "manual"]) -> To:
    """Bring a candidate that passed to a promotion's job, or before a person; says to whom.

    ``earlier``: it was done before. ``nobody``: the queue has a promotion of this served model, which changes what
    this one was measured against; `sentinel train promote` may still bring it in.
    """
    row = await adapter_of(conn, adapter)
    if row is None or row.state is not AdapterState.CANDIDATE:
        return "earlier"
    if mode == "manual":
        await move(conn, adapter, AdapterState.CANDIDATE, AdapterState.AWAITING_APPROVAL)
        return "approval"
    # A promotion finds its adapter by the run that made it first.
    payload = JobPayload(kind=JobKind.PROMOTE, run_id=row.run_id or run_id, served_model=row.served_model)
    if await enqueue(conn, payload):
        return "promotion"
    _log.warning(
        "Another promotion is queued or under way; this one is left to a person.",
        action="promotion_not_queued",
        served_model=row.served_model,
        adapter=adapter,
    )
    return "nobody"
