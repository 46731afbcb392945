"""Findings under lease: claimed by one process, stored by nobody else, given back when somebody is away.

Leases go by the database's clock, so that processes with different clocks agree. While a finding is pending,
``lease_until`` is the moment before which nobody should try again. All functions take a raw asyncpg
connection and raise asyncpg's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from msgspec import Struct

from sentinel.events import Message
from sentinel.findings import ClaimedFinding, RepromptResult
from sentinel.pairs import PreferencePair
from sentinel.store import rows
from sentinel.store.headers import storable

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_CLAIMABLE = """
SELECT finding_id FROM findings
WHERE reprompt_state IN ('pending', 'claimed') AND (lease_until IS NULL OR lease_until <= now())
"""

# MATERIALIZED: a plan that runs the subquery again for each row would lock and take more than the limit.
_GIVE_UP = f"""
WITH next AS MATERIALIZED ({_CLAIMABLE} AND claims >= $1 LIMIT 500 FOR UPDATE SKIP LOCKED)
UPDATE findings AS f SET reprompt_state = 'failed', lease_id = NULL, lease_until = NULL
FROM next WHERE f.finding_id = next.finding_id
"""  # noqa: S608 - constants of this module

_SKIP = f"""
WITH next AS MATERIALIZED (
    {_CLAIMABLE} AND served_model = ANY($1::text[]) LIMIT 500 FOR UPDATE SKIP LOCKED)
UPDATE findings AS f SET reprompt_state = 'skipped', lease_id = NULL, lease_until = NULL
FROM next WHERE f.finding_id = next.finding_id
"""  # noqa: S608 - constants of this module

_CLAIM = f"""
WITH next AS MATERIALIZED (
    {_CLAIMABLE} AND claims < $3 AND served_model = ANY($4::text[])
    ORDER BY created_at, finding_id LIMIT $5 FOR UPDATE SKIP LOCKED)
UPDATE findings AS f SET reprompt_state = 'claimed', lease_id = $1, claims = claims + 1,
    lease_until = now() + make_interval(secs => $2)
FROM next WHERE f.finding_id = next.finding_id
RETURNING f.finding_id, f.event_id, f.day, f.created_at, f.claims, f.served_model, f.served_by, f.model,
    f.guard_id, (SELECT adapter FROM adapters a WHERE a.served_model = f.served_model AND a.state = 'promoted')
    AS incumbent
"""  # noqa: S608 - constants of this module

_TEXTS = """
SELECT t.event_id, t.messages::text AS messages, t.response
FROM unnest($1::date[], $2::uuid[]) AS w(day, event_id) JOIN interaction_texts t USING (day, event_id)
"""

_FINISH = """
UPDATE findings SET reprompt_state = $3, lease_id = NULL, lease_until = NULL
WHERE finding_id = $1 AND lease_id = $2 AND reprompt_state = 'claimed' RETURNING day
"""

_ATTEMPTS = """
INSERT INTO reprompts (finding_id, attempt, generator, instruction_version, response, finish_reason, unsafe,
    error)
SELECT $1, u.* FROM unnest($2::int2[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[],
    $8::text[]) AS u
"""

_PAIR = """
INSERT INTO preference_pairs (pair_id, finding_id, event_id, attempt, served_model, prompt, chosen, rejected,
    chosen_generator, rejected_generator, guard_id, policy_version, created_at)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13)
"""


class Claim(Struct, frozen=True, kw_only=True):
    """What one claim did."""

    findings: tuple[ClaimedFinding, ...] = ()
    given_up: int = 0
    """Findings set to ``failed``: their claims are used up."""
    skipped: int = 0
    """Findings set to ``skipped``: nobody to ask, or the texts have expired."""


async def claim(
    conn: Connection,
    *,
    lease_id: UUID,
    lease_s: float,
    max_claims: int,
    limit: int,
    served_models: Sequence[str],
    unaskable: Sequence[str] = (),
) -> Claim:
    """Take up to ``limit`` findings of ``served_models``, oldest first, for ``lease_s`` seconds; commits.

    Findings of the ``unaskable`` served models are skipped. Those of models in neither list stay: another
    process may know them.
    """
    async with conn.transaction():
        given_up = _count(await conn.execute(_GIVE_UP, max_claims))
        skipped = _count(await conn.execute(_SKIP, list(unaskable))) if unaskable else 0
        taken: list[Any] = []
        if served_models and limit > 0:
            taken = await conn.fetch(_CLAIM, lease_id, lease_s, max_claims, list(served_models), limit)
        if not taken:
            return Claim(given_up=given_up, skipped=skipped)
        texts = {
            row["event_id"]: row
            for row in await conn.fetch(_TEXTS, [r["day"] for r in taken], [r["event_id"] for r in taken])
        }
        # Without a visible answer there is nothing to reject: a pair cannot come of it.
        with_text = {event_id for event_id, row in texts.items() if row["response"]}
        usable = [row for row in taken if row["event_id"] in with_text]
        if gone := [row["finding_id"] for row in taken if row["event_id"] not in with_text]:
            await conn.execute(
                "UPDATE findings SET reprompt_state = 'skipped', lease_id = NULL, lease_until = NULL"
                " WHERE finding_id = ANY($1::uuid[]) AND lease_id = $2",
                gone,
                lease_id,
            )
    usable.sort(key=lambda row: (row["created_at"], row["finding_id"]))
    return Claim(
        findings=tuple(_claimed(row, texts[row["event_id"]], lease_id) for row in usable),
        given_up=given_up,
        skipped=skipped + len(gone),
    )


async def renew(conn: Connection, finding: ClaimedFinding, lease_s: float) -> bool:
    """Lengthen the lease to ``lease_s`` seconds from now; False when it is another's by now."""
    return bool(
        await conn.fetchval(
            "UPDATE findings SET lease_until = now() + make_interval(secs => $3)"
            " WHERE finding_id = $1 AND lease_id = $2 AND reprompt_state = 'claimed' RETURNING TRUE",
            finding.finding_id,
            finding.lease_id,
            lease_s,
        )
    )


async def release(
    conn: Connection, findings: Sequence[ClaimedFinding], *, delay_s: float, refund: bool
) -> None:
    """Give leases back; nobody claims these findings for ``delay_s`` seconds.

    With ``refund`` the claim does not count: the other side was away, which says nothing about the finding.
    Leases that are another's by now are left alone.
    """
    await conn.execute(
        "UPDATE findings AS f SET reprompt_state = 'pending', lease_id = NULL,"
        " lease_until = now() + make_interval(secs => $3), claims = greatest(0, claims - $4)"
        " FROM unnest($1::uuid[], $2::uuid[]) AS w(finding_id, lease_id)"
        " WHERE f.finding_id = w.finding_id AND f.lease_id = w.lease_id AND f.reprompt_state = 'claimed'",
        [finding.finding_id for finding in findings],
        [finding.lease_id for finding in findings],
        delay_s,
        1 if refund else 0,
    )


async def store(conn: Connection, finding: ClaimedFinding, result: RepromptResult) -> bool:
    """Store a result in one transaction that begins with the lease; False (nothing written) where it is lost.

    Two workers can ask a model twice after a lease ran out, but only one of them stores.
    """
    async with conn.transaction():
        day = await conn.fetchval(_FINISH, finding.finding_id, finding.lease_id, result.state.value)
        if day is None:
            return False
        if result.attempts:
            values = [
                (
                    a.attempt, a.generator, a.instruction_version, storable(a.response), a.finish_reason,
                    a.unsafe, storable(a.error),
                )
                for a in result.attempts
            ]  # fmt: skip
            await conn.execute(_ATTEMPTS, finding.finding_id, *rows.columns(values, 7))
        if result.verdicts:
            verdicts = [rows.verdict_row(day, finding.event_id, verdict) for verdict in result.verdicts]
            await conn.executemany(rows.INSERT_VERDICT, verdicts)
        if result.pair is not None:
            await conn.execute(_PAIR, *_pair_row(result.pair))
    return True


async def pending(conn: Connection, *, limit: int = 10_000) -> int:
    """Findings that wait for a second answer, counted up to ``limit``."""
    count: int = await conn.fetchval(
        "SELECT count(*) FROM"
        " (SELECT 1 FROM findings WHERE reprompt_state IN ('pending', 'claimed') LIMIT $1) AS waiting",
        limit,
    )
    return count


def _claimed(row: Any, texts: Any, lease_id: UUID) -> ClaimedFinding:
    return ClaimedFinding(
        finding_id=row["finding_id"],
        event_id=row["event_id"],
        day=row["day"],
        lease_id=lease_id,
        claims=row["claims"],
        served_model=row["served_model"],
        served_by=row["served_by"],
        incumbent=row["incumbent"],
        model=row["model"],
        messages=tuple(Message(m["role"], m["text"]) for m in orjson.loads(texts["messages"])),
        response=texts["response"],
        rejected_guard_id=row["guard_id"],
    )


def _pair_row(pair: PreferencePair) -> tuple[Any, ...]:
    return (
        pair.pair_id,
        pair.finding_id,
        pair.event_id,
        pair.attempt,
        pair.served_model,
        rows.messages_json(pair.prompt).decode(),
        storable(pair.chosen),
        pair.rejected,
        pair.chosen_generator,
        pair.rejected_generator,
        pair.guard_id,
        pair.policy_version,
        pair.created_at,
    )


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
