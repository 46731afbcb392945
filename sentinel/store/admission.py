"""Who may enter service: the gate's report, the incumbent it was measured against, approvals, freezes.

All functions take a raw asyncpg connection and raise asyncpg's errors.
"""

from __future__ import annotations

import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.states import AdapterState
from sentinel.store.adapters import AdapterRow, adapter_of, move
from sentinel.store.audit import audit
from sentinel.store.headers import storable

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

EVERY_MODEL = "*"
"""Stands for all served models in ``freezes``."""

LOCK_CLASS = 0x5E18
"""First half of the advisory locks of service; the second is the served model's CRC-32, 0 for the freezes."""

_REPORT = """
SELECT gate_report_id, verdict, incumbent FROM gate_reports
WHERE adapter = $1 AND served_model = $2 AND ($3::uuid IS NULL OR gate_report_id = $3)
ORDER BY created_at DESC, gate_report_id LIMIT 1
"""

_DECISIONS = """
SELECT count(*) FILTER (WHERE decision = 'approve') AS approved,
       (SELECT actor FROM approvals WHERE adapter = $1 AND decision = 'reject' LIMIT 1) AS rejected_by
FROM approvals WHERE adapter = $1
"""

_FREEZE = """
SELECT served_model, actor, reason FROM freezes WHERE served_model IN ($1, '*') ORDER BY served_model LIMIT 1
"""


class Refusal(StrEnum):
    """Why an adapter is not let in."""

    NO_REPORT = "no_report"
    GATE = "gate"
    INCUMBENT = "incumbent"
    REJECTED = "rejected"
    APPROVALS = "approvals"
    FROZEN = "frozen"
    STATE = "state"

    @property
    def lasting(self) -> bool:
        """Whether waiting cannot help: what is being loaded for it is given up."""
        return self not in {Refusal.APPROVALS, Refusal.FROZEN}


class PromotionRefusedError(CommandError):
    """The adapter may not enter service; nothing was changed by saying so."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Admission(Struct, frozen=True, kw_only=True):
    """What an adapter is let in by."""

    gate_report_id: UUID
    incumbent: str | None
    """The adapter that it replaces, None for the base."""


async def lock_service(conn: Connection, served_model: str) -> None:
    """Until this transaction ends nobody else changes what the served model serves, nor freezes anything."""
    number = zlib.crc32(served_model.encode())
    await conn.execute("SELECT pg_advisory_xact_lock_shared($1, 0)", LOCK_CLASS)
    await conn.execute(
        "SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, number - 2**32 if number >= 2**31 else number
    )


async def in_service(conn: Connection, served_model: str) -> str | None:
    """Name of the adapter in service, None for the base."""
    adapter: str | None = await conn.fetchval(
        "SELECT adapter FROM promotions WHERE served_model = $1 ORDER BY generation DESC LIMIT 1",
        served_model,
    )
    return adapter


async def admit(
    conn: Connection, adapter: AdapterRow, *, approvals: int, gate_report_id: UUID | None = None
) -> Admission:
    """Check all that can speak against ``adapter``; ``approvals``: persons that must have said yes.

    The newest gate report counts unless one is named.

    Raises:
        PromotionRefusedError: with the reason.
    """
    name = adapter.adapter
    report = await conn.fetchrow(_REPORT, name, adapter.served_model, gate_report_id)
    if report is None:
        raise PromotionRefusedError(
            Refusal.NO_REPORT, f"{name} has no gate report: run `sentinel train gate`"
        )
    if report["verdict"] != "pass":
        raise PromotionRefusedError(Refusal.GATE, f"the gate said {report['verdict']!r} about {name}")
    current = await in_service(conn, adapter.served_model)
    if report["incumbent"] != current:
        raise PromotionRefusedError(
            Refusal.INCUMBENT,
            f"{name} was measured against {report['incumbent'] or 'the base'}, and"
            f" {current or 'the base'} is in service now: evaluate it again",
        )
    (decisions,) = await conn.fetch(_DECISIONS, name)
    if decisions["rejected_by"] is not None:
        raise PromotionRefusedError(Refusal.REJECTED, f"{decisions['rejected_by']} rejected {name}")
    freeze = await conn.fetchrow(_FREEZE, adapter.served_model)
    if freeze is not None:
        scope = "every model" if freeze["served_model"] == EVERY_MODEL else freeze["served_model"]
        raise PromotionRefusedError(
            Refusal.FROZEN,
            f"{scope} is frozen by {freeze['actor']} ({freeze['reason'] or 'no reason given'}):"
            " `sentinel unfreeze` lets promotions go on",
        )
    if decisions["approved"] < approvals:
        raise PromotionRefusedError(
            Refusal.APPROVALS,
            f"{name} has {decisions['approved']} of {approvals} approvals: `sentinel train approve {name}`",
        )
    return Admission(gate_report_id=report["gate_report_id"], incumbent=current)


async def decide(conn: Connection, adapter: str, *, actor: str, decision: str, comment: str = "") -> int:
    """Write down a person's ``approve`` or ``reject``; returns how many have approved. Commits.

    A rejected adapter that waits is rejected at once; one that is on its way in is given up by its promotion.

    Raises:
        CommandError: there is no such adapter, it waits for nobody, or this person has decided otherwise.
    """
    async with conn.transaction():
        row = await adapter_of(conn, adapter)
        if row is None:
            raise CommandError(f"there is no adapter {adapter}: `sentinel train adapters` lists them")
        open_to = {AdapterState.CANDIDATE, AdapterState.AWAITING_APPROVAL}
        if decision == "reject":
            open_to |= {AdapterState.LOADING, AdapterState.PROBING}
        if row.state not in open_to:
            raise CommandError(f"{adapter} is {row.state.value}: there is nothing to {decision}")
        await conn.execute(
            "INSERT INTO approvals (adapter, actor, decision, comment) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (adapter, actor) DO NOTHING",
            adapter,
            storable(actor),
            decision,
            storable(comment),
        )
        # A statement of its own: that one has waited for whoever wrote the row first, and does not see it.
        said = await conn.fetchval(
            "SELECT decision FROM approvals WHERE adapter = $1 AND actor = $2", adapter, storable(actor)
        )
        if said != decision:
            raise CommandError(f"{actor} has said {said!r} about {adapter} before")
        if decision == "reject" and row.state in {AdapterState.CANDIDATE, AdapterState.AWAITING_APPROVAL}:
            await move(conn, adapter, row.state, AdapterState.REJECTED)
        await audit(conn, actor, f"adapter {decision}", adapter, comment=comment)
        count: int = await conn.fetchval(
            "SELECT count(*) FROM approvals WHERE adapter = $1 AND decision = 'approve'", adapter
        )
        return count


async def freeze(conn: Connection, served_model: str, *, actor: str, reason: str = "") -> bool:
    """No retraining and no promotion of ``served_model`` (``*``: of any) from now on; False where it was so already.

    When this returns no promotion is in the middle of its transaction. Commits.
    """
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", LOCK_CLASS)
        name = await conn.fetchval(
            "INSERT INTO freezes (served_model, actor, reason) VALUES ($1, $2, $3)"
            " ON CONFLICT (served_model) DO NOTHING RETURNING served_model",
            served_model,
            storable(actor),
            storable(reason),
        )
        if name is not None:
            await audit(conn, actor, "freeze", served_model, reason=reason)
        return name is not None


async def unfreeze(conn: Connection, served_model: str, *, actor: str) -> bool:
    """Lift the freeze of that name; False where there is none. Commits."""
    async with conn.transaction():
        name = await conn.fetchval(
            "DELETE FROM freezes WHERE served_model = $1 RETURNING served_model", served_model
        )
        if name is not None:
            await audit(conn, actor, "unfreeze", served_model)
        return name is not None
