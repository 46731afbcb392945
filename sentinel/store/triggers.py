"""What the trigger rules look at, what they remember, and the one transaction in which one of them fires.

The moment at which something is looked at is the caller's (`now`), so that a test can move it. A firing names
the crossing that its caller saw before it measured: one that comes late, after the rule fired and was armed
again, finds another number and does nothing. All functions take a raw asyncpg connection and raise its errors.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import orjson
from msgspec import Struct

from sentinel.jobs import JobKind, JobPayload, enqueue
from sentinel.store import training

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

Client = tuple[str, str]
"""Tenant and source, empty where an event names none."""


MOST_NAMED: Final = 1_000
"""Pairs that a firing names one by one; further ones are told by their number and by the moments of first and last."""


class FreshPairs(Struct, frozen=True, kw_only=True):
    """Pairs that no earlier run of a served model saw."""

    by_client: dict[Client, int]
    newest: dt.datetime | None
    """When the last of them was made; None without any."""


class RuleState(Struct, frozen=True, kw_only=True):
    """What a rule remembers about a served model."""

    armed: bool = True
    crossing: int = 0
    """How often it has fired."""
    open: bool = False
    """It fired the last time without starting a run."""
    void: bool = False
    """The run that it started last failed before it had a data set."""


class Answers(Struct, frozen=True, kw_only=True):
    """Scored answers of one period."""

    by_kind: dict[str, int]
    """Answers by label and, after a slash, whether they refuse; for example ``safe/refusal``."""
    unsafe: int
    several_clients: bool

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_kind.values())


class Situation(Struct, frozen=True, kw_only=True):
    """What else decides whether a run may start."""

    frozen: bool
    busy: bool
    """A run is queued or running."""
    last_end: dt.datetime | None
    """When the newest run ended, or was made where it has not ended."""
    runs: int
    """How many there have been: a number that moved means that what was measured before is out of date."""


# A pair that was there when a run with a data set began, and is not in it, was dropped by that run (a duplicate,
# beyond the cap): counted again it would keep a rule above its threshold for ever.
_IS_FRESH = """p.served_model = $1
  AND p.created_at > coalesce((
      SELECT max(started_at) FROM training_runs WHERE served_model = $1 AND dataset_id IS NOT NULL
  ), '-infinity')
  AND NOT EXISTS (
      SELECT FROM dataset_pairs d JOIN training_runs r USING (dataset_id)
      WHERE d.pair_id = p.pair_id AND r.served_model = $1)
"""

_FRESH = f"""
SELECT coalesce(f.tenant, '') AS tenant, coalesce(f.source, '') AS source, count(*) AS pairs,
    max(p.created_at) AS newest
FROM preference_pairs p JOIN findings f USING (finding_id) WHERE {_IS_FRESH} GROUP BY 1, 2
"""  # noqa: S608 -- made of constants

_NAMED = f"""
WITH fresh AS (SELECT p.pair_id, p.created_at FROM preference_pairs p WHERE {_IS_FRESH} AND p.created_at <= $2)
SELECT count(*) AS pairs, min(created_at) AS first_at, max(created_at) AS last_at,
    ARRAY(SELECT pair_id FROM fresh ORDER BY created_at DESC, pair_id LIMIT $3) AS named
FROM fresh
"""  # noqa: S608 -- made of constants

_ANSWERS = """
SELECT coalesce(response_label, 'none') || CASE WHEN refusal THEN '/refusal' ELSE '' END AS kind,
    count(*) AS answers, count(*) FILTER (WHERE unsafe) AS unsafe,
    min(coalesce(tenant, '')) AS low_tenant, max(coalesce(tenant, '')) AS high_tenant,
    min(coalesce(source, '')) AS low_source, max(coalesce(source, '')) AS high_source
FROM interactions
WHERE served_model = $1 AND recorded_at > $2 AND recorded_at <= $3 AND day >= $4 AND outcome = 'stored'
GROUP BY 1
"""

_STATES = """
SELECT s.trigger, s.armed, s.crossing, f.fired_at IS NOT NULL AND f.run_id IS NULL AS open,
    coalesce(r.state = 'failed' AND r.dataset_id IS NULL, FALSE) AS void
FROM trigger_states s
LEFT JOIN trigger_firings f USING (trigger, served_model, crossing)
LEFT JOIN training_runs r ON r.run_id = f.run_id
WHERE s.served_model = $1
"""

_SITUATION = """
SELECT EXISTS (SELECT FROM freezes WHERE served_model IN ($1, '*')) AS frozen,
    coalesce(bool_or(state IN ('queued', 'running')), FALSE) AS busy,
    max(coalesce(finished_at, created_at)) AS last_end, count(*) AS runs
FROM training_runs WHERE served_model = $1 AND kind = 'train'
"""


async def fresh_pairs(conn: Connection, served_model: str) -> FreshPairs:
    """Pairs that no earlier run of the served model saw, by client."""
    rows = await conn.fetch(_FRESH, served_model)
    return FreshPairs(
        by_client={(row["tenant"], row["source"]): row["pairs"] for row in rows},
        newest=max((row["newest"] for row in rows), default=None),
    )


async def name_pairs(conn: Connection, served_model: str, newest: dt.datetime | None) -> dict[str, Any]:
    """The fresh pairs up to ``newest``, as a firing's evidence keeps them: `MOST_NAMED` ids, the newest first.

    ``pairs`` is their number; where it is larger than the ids are many, ``pairs_from`` and ``pairs_until`` (moments,
    both included) find the others in ``preference_pairs``. A pair that is erased later leaves its id and nothing else.
    """
    if newest is None:
        return {"pairs": 0, "pair_ids": []}
    row = await conn.fetchrow(_NAMED, served_model, newest, MOST_NAMED)
    assert row is not None  # noqa: S101 -- an aggregate has a row
    return {
        "pairs": row["pairs"],
        "pairs_from": row["first_at"],
        "pairs_until": row["last_at"],
        "pair_ids": [str(one) for one in row["named"]],
    }


async def answers(conn: Connection, served_model: str, since: dt.datetime, until: dt.datetime) -> Answers:
    """Scored answers that were recorded after ``since``, ``until`` included."""
    # A row is recorded on its day of receipt or soon after it: older partitions need no look.
    first_day = since.date() - dt.timedelta(days=1)
    rows = await conn.fetch(_ANSWERS, served_model, since, until, first_day)
    clients = {(row[f"{end}_tenant"], row[f"{end}_source"]) for row in rows for end in ("low", "high")}
    return Answers(
        by_kind={row["kind"]: row["answers"] for row in rows},
        unsafe=sum(row["unsafe"] for row in rows),
        several_clients=len(clients) > 1,
    )


async def adapter_since(conn: Connection, served_model: str) -> dt.datetime | None:
    """When the adapter in service was made; None where the base is in service."""
    made: dt.datetime | None = await conn.fetchval(
        "SELECT created_at FROM adapters WHERE served_model = $1 AND state = 'promoted'", served_model
    )
    return made


async def states(conn: Connection, served_model: str) -> dict[str, RuleState]:
    """What the rules remember, by rule."""
    rows = await conn.fetch(_STATES, served_model)
    return {
        row["trigger"]: RuleState(
            armed=row["armed"], crossing=row["crossing"], open=row["open"], void=row["void"]
        )
        for row in rows
    }


async def situation(conn: Connection, served_model: str) -> Situation:
    """Freezes and runs of a served model."""
    row = await conn.fetchrow(_SITUATION, served_model)
    assert row is not None  # noqa: S101 -- an aggregate has a row
    return Situation(**dict(row))


async def overview(conn: Connection) -> list[tuple[str, str, float | None, bool, int]]:
    """Rule, served model, newest value, armed, number of firings: of all rules that were looked at."""
    rows = await conn.fetch("SELECT trigger, served_model, value, armed, crossing FROM trigger_states")
    return [tuple(row) for row in rows]


async def note(conn: Connection, rule: str, served_model: str, value: float | None, now: dt.datetime) -> None:
    """Remember the newest value; makes the rule's row where it is missing."""
    await conn.execute(
        "INSERT INTO trigger_states (trigger, served_model, value, checked_at) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (trigger, served_model) DO UPDATE SET value = excluded.value, checked_at = excluded.checked_at",
        rule,
        served_model,
        value,
        now,
    )


async def rearm(conn: Connection, rule: str, served_model: str, crossing: int) -> bool:
    """Let the rule fire again; False where it fired since ``crossing`` was read."""
    return bool(
        await conn.fetchval(
            "UPDATE trigger_states SET armed = true"
            " WHERE trigger = $1 AND served_model = $2 AND crossing = $3 AND NOT armed RETURNING TRUE",
            rule,
            served_model,
            crossing,
        )
    )


async def notify(
    conn: Connection, rule: str, served_model: str, crossing: int, evidence: Mapping[str, Any]
) -> bool:
    """Fire without a run. False (nothing written) where another process was first."""
    async with conn.transaction():
        number = await _cross(conn, rule, served_model, crossing)
        return number is not None and await _insert(conn, rule, served_model, number, evidence, None)


async def fire(
    conn: Connection,
    rule: str,
    served_model: str,
    crossing: int,
    evidence: Mapping[str, Any],
    config: Mapping[str, Any],
) -> UUID | None:
    """Fire and start a run: crossing, firing, run and job in one transaction; the run's id.

    None (nothing written) where another process was first, or a run or its job is in the way.
    """
    run_id = uuid4()
    async with _Attempt(conn) as attempt:
        number = await _cross(conn, rule, served_model, crossing)
        attempt.require(number is not None)
        attempt.require(await training.create_run(conn, run_id, served_model, "train", config))
        attempt.require(await _insert(conn, rule, served_model, number or 0, evidence, run_id))
        attempt.require(await _enqueue(conn, rule, served_model, number or 0, run_id))
    return run_id if attempt.succeeded else None


async def follow_up(
    conn: Connection, rule: str, served_model: str, crossing: int, config: Mapping[str, Any]
) -> UUID | None:
    """Start the run that a firing lacked; None (nothing written) where it has one, or one is in the way."""
    run_id = uuid4()
    async with _Attempt(conn) as attempt:
        attempt.require(await training.create_run(conn, run_id, served_model, "train", config))
        attempt.require(
            await conn.fetchval(
                "UPDATE trigger_firings SET run_id = $4 WHERE trigger = $1 AND served_model = $2 AND crossing = $3"
                " AND run_id IS NULL RETURNING TRUE",
                rule,
                served_model,
                crossing,
                run_id,
            )
        )
        attempt.require(await _enqueue(conn, rule, served_model, crossing, run_id))
    return run_id if attempt.succeeded else None


class _GaveUp(Exception):  # noqa: N818 -- steers the transaction, never leaves it
    """Roll back."""


class _Attempt:
    """A transaction that is rolled back, without an error, as soon as something required is missing."""

    def __init__(self, conn: Connection) -> None:
        self._transaction = conn.transaction()
        self.succeeded = False

    def require(self, condition: object) -> None:
        if not condition:
            raise _GaveUp

    async def __aenter__(self) -> _Attempt:
        await self._transaction.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None:
            await self._transaction.commit()
            self.succeeded = True
        else:
            await self._transaction.rollback()
        return kind is _GaveUp


async def _cross(conn: Connection, rule: str, served_model: str, crossing: int) -> int | None:
    number: int | None = await conn.fetchval(
        "UPDATE trigger_states SET armed = false, crossing = crossing + 1"
        " WHERE trigger = $1 AND served_model = $2 AND crossing = $3 AND armed RETURNING crossing",
        rule,
        served_model,
        crossing,
    )
    return number


async def _insert(
    conn: Connection,
    rule: str,
    served_model: str,
    crossing: int,
    evidence: Mapping[str, Any],
    run_id: UUID | None,
) -> bool:
    return bool(
        await conn.fetchval(
            "INSERT INTO trigger_firings (trigger, served_model, crossing, run_id, evidence)"
            " VALUES ($1, $2, $3, $4, $5::text::jsonb) ON CONFLICT DO NOTHING RETURNING TRUE",
            rule,
            served_model,
            crossing,
            run_id,
            orjson.dumps(dict(evidence)).decode(),
        )
    )


async def _enqueue(conn: Connection, rule: str, served_model: str, crossing: int, run_id: UUID) -> bool:
    return await enqueue(
        conn,
        JobPayload(
            kind=JobKind.TRAIN,
            run_id=run_id,
            served_model=served_model,
            trigger_firing_id=f"{rule}/{crossing}",
        ),
    )
