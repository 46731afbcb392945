"""Preference pairs of a served model as the store has them, and which of them may be trained on.

All still-valid pairs are taken each time, not only new ones: the adapter is trained from the base, and a data
set without the earlier pairs would forget what the last promotion taught.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson
from msgspec import Struct

from sentinel.events import Message
from sentinel.reserved import RESERVED_SHARE, is_reserved
from sentinel.settings import ServedModel
from sentinel.verdicts import Assessment, Label, Policy
from trainer.attribution import load_attribution
from trainer.dataset.drops import Drop

Connection: TypeAlias = "asyncpg.Connection[Any]"

OVERRIDDEN = "finding.override"
"""Action of an audit row by which a person says that a finding is none; its subject is the finding's id."""

NO_FAMILY = "uncategorised"

MOST = 100_000
"""Pairs that are read at most, the newest: years of them would not fit into memory with their texts."""

# In both lookups OFFSET keeps the planner from joining all partitions with all pairs, which it does where it has
# no statistics yet: minutes instead of a second at ten thousand pairs.
_PAIRS = """
SELECT p.pair_id, p.finding_id, p.event_id, p.attempt, p.prompt::text AS prompt, p.chosen, p.rejected,
    p.chosen_generator, p.rejected_generator, p.guard_id, p.created_at,
    f.day, f.categories, f.tenant, f.source, f.served_by, i.conversation_id,
    coalesce(i.received_at, f.created_at) AS answered_at
FROM (
        SELECT * FROM preference_pairs WHERE served_model = $1 ORDER BY created_at DESC, pair_id DESC LIMIT $2
    ) AS p
    JOIN findings f USING (finding_id)
    LEFT JOIN LATERAL (
        SELECT conversation_id, received_at FROM interactions WHERE day = f.day AND event_id = p.event_id OFFSET 0
    ) AS i ON TRUE
ORDER BY p.created_at, p.pair_id
"""

_TAKEN = """
SELECT DISTINCT d.pair_id FROM dataset_pairs d JOIN training_runs r USING (dataset_id) WHERE r.served_model = $1
"""

_VERDICTS = """
SELECT w.event_id, v.attempt, v.label, v.categories, v.score_run
FROM unnest($1::date[], $2::uuid[], $3::int2[]) AS w(day, event_id, attempt) CROSS JOIN LATERAL (
    SELECT attempt, label, categories, score_run FROM verdicts
    WHERE day = w.day AND event_id = w.event_id AND role = 'response' AND attempt IN (0, w.attempt)
        AND ($4::int IS NULL OR score_run <= $4)
    OFFSET 0) AS v
"""


class StoredPair(Struct, frozen=True, kw_only=True):
    """A pair with what decides about its use."""

    pair_id: UUID
    finding_id: UUID
    event_id: UUID
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_generator: str
    rejected_generator: str
    guard_id: str
    score_run: int
    """The newest score run among its sides' verdicts."""
    family: str
    """First category of the finding."""
    client: str
    """Tenant, else source: who could flood the data set."""
    adapter: str | None
    """The adapter that gave the unsafe answer; None for the base."""
    created_at: dt.datetime
    fresh: bool
    """In no data set of a run of this served model yet."""


class Collected(Struct, frozen=True, kw_only=True):
    """What is there for one served model."""

    valid: tuple[StoredPair, ...]
    """Oldest first."""
    dropped: Mapping[UUID, Drop]
    """Pairs that may not be used, and why."""


async def collect(
    conn: Connection,
    served_model: str,
    *,
    model: ServedModel | None = None,
    policy: Policy,
    score_run: int | None = None,
    reserved_share: float = RESERVED_SHARE,
) -> Collected:
    """Read the newest pairs of ``served_model``, at most `MOST`, and say of each whether it still holds.

    Out are pairs of reserved conversations, pairs whose finding a person overrode, and pairs of which a side's
    newest verdict (up to ``score_run``) is not what it was: the policy in force reads it. An erased finding took
    its pairs with it. ``model`` tells the base's own names; without it only known adapters count as adapters.

    Raises what asyncpg raises.
    """
    rows = await conn.fetch(_PAIRS, served_model, MOST)
    taken = {row["pair_id"] for row in await conn.fetch(_TAKEN, served_model)}
    overridden = {
        row["subject"]
        for row in await conn.fetch("SELECT subject FROM audit_log WHERE action = $1", OVERRIDDEN)
    }
    sides = await _verdicts(conn, rows, score_run)
    attribution = await load_attribution(conn, served_model, None if model is None else model.base)
    valid: list[StoredPair] = []
    dropped: dict[UUID, Drop] = {}
    for row in rows:
        prompt = tuple(Message(m["role"], m["text"]) for m in orjson.loads(row["prompt"]))
        chosen = sides.get((row["event_id"], row["attempt"]), ())
        rejected = sides.get((row["event_id"], 0), ())
        why = None
        if is_reserved(row["conversation_id"], prompt, reserved_share):
            why = Drop.RESERVED
        elif str(row["finding_id"]) in overridden:
            why = Drop.OVERRIDDEN
        elif any(policy.is_unsafe(a) is not False for _, a in chosen) or any(
            policy.is_unsafe(a) is not True for _, a in rejected
        ):
            why = Drop.FLIPPED
        if why is not None:
            dropped[row["pair_id"]] = why
            continue
        valid.append(
            StoredPair(
                pair_id=row["pair_id"],
                finding_id=row["finding_id"],
                event_id=row["event_id"],
                prompt=prompt,
                chosen=row["chosen"],
                rejected=row["rejected"],
                chosen_generator=row["chosen_generator"],
                rejected_generator=row["rejected_generator"],
                guard_id=row["guard_id"],
                score_run=max((run for run, _ in (*chosen, *rejected)), default=0),
                family=row["categories"][0] if row["categories"] else NO_FAMILY,
                client=f"tenant {row['tenant']}" if row["tenant"] else f"source {row['source'] or ''}",
                adapter=attribution.adapter(row["served_by"], row["rejected_generator"], row["answered_at"]),
                created_at=row["created_at"],
                fresh=row["pair_id"] not in taken,
            )
        )
    return Collected(valid=tuple(valid), dropped=dropped)


async def _verdicts(
    conn: Connection, rows: Sequence[Any], score_run: int | None
) -> dict[tuple[UUID, int], list[tuple[int, Assessment]]]:
    """Of each side (event, attempt) the verdicts of its newest score run, one for each guard that took part."""
    days, events, attempts = ([row[name] for row in rows] for name in ("day", "event_id", "attempt"))
    found: dict[tuple[UUID, int], list[tuple[int, Assessment]]] = {}
    for row in await conn.fetch(_VERDICTS, days, events, attempts, score_run):
        assessment = Assessment(label=Label(row["label"]), categories=tuple(row["categories"]))
        newest = found.setdefault((row["event_id"], row["attempt"]), [])
        if newest and newest[0][0] < row["score_run"]:
            newest.clear()
        if not newest or newest[0][0] == row["score_run"]:
            newest.append((row["score_run"], assessment))
    return found
