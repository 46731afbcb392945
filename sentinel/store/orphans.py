"""What foreign keys would forbid, were they possible: rows without the row that they belong to.

Partitioned tables take part in no foreign key, since one would block dropping a day; this looks instead.
Days that retention has dropped are left out: findings and keys outlive their interactions on purpose.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import asyncpg

from sentinel.store.partitions import existing_days

_INTERACTION_OF_X = "SELECT FROM interactions i WHERE i.day = x.day AND i.event_id = x.event_id"

CHECKS: dict[str, str] = {
    "texts_without_interaction": f"FROM interaction_texts x WHERE NOT EXISTS ({_INTERACTION_OF_X})",
    "verdicts_without_interaction": f"FROM verdicts x WHERE NOT EXISTS ({_INTERACTION_OF_X})",
    "screenings_without_interaction": f"FROM screenings x WHERE NOT EXISTS ({_INTERACTION_OF_X})",
    "findings_without_interaction": f"FROM findings x WHERE NOT EXISTS ({_INTERACTION_OF_X})",
    "keys_without_interaction": f"FROM event_keys x WHERE NOT EXISTS ({_INTERACTION_OF_X})",
    "interactions_without_key": (
        "FROM interactions x WHERE NOT EXISTS"
        " (SELECT FROM event_keys k"
        " WHERE k.event_id = x.event_id AND k.day = x.day AND k.outcome = x.outcome)"
    ),
    "interactions_without_texts": (
        "FROM interactions x WHERE x.day >= $3 AND NOT EXISTS"
        " (SELECT FROM interaction_texts t WHERE t.day = x.day AND t.event_id = x.event_id)"
    ),
    "stored_without_verdict": (
        "FROM interactions x WHERE x.outcome = 'stored' AND NOT EXISTS"
        " (SELECT FROM verdicts v WHERE v.day = x.day AND v.event_id = x.event_id"
        " AND v.role = 'response' AND v.attempt = 0 AND v.score_run = 0 AND v.label <> 'unparseable')"
    ),
    "unsafe_without_finding": (
        "FROM interactions x WHERE x.unsafe AND NOT EXISTS"
        " (SELECT FROM findings f WHERE f.event_id = x.event_id)"
    ),
    "findings_not_unsafe": f"FROM findings x WHERE EXISTS ({_INTERACTION_OF_X} AND i.unsafe IS NOT TRUE)",
}
"""Name of each check, and what it counts: rows of ``x`` whose counterpart is missing or contradicts them."""


async def find_orphans(
    conn: asyncpg.Connection[Any], *, from_day: dt.date | None = None, to_day: dt.date | None = None
) -> dict[str, int]:
    """Rows counted by each of `CHECKS`, all 0 in a sound store, over the days ``from_day`` to ``to_day``.

    None means as far as interactions are kept. Reads one snapshot, so that rows written meanwhile are not
    taken for orphans; on a large store give it few days. Raises what asyncpg raises.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        days = await existing_days(conn, "interactions")
        if not days:
            return dict.fromkeys(CHECKS, 0)
        texts = await existing_days(conn, "interaction_texts")
        first, last = max(days[0], from_day or days[0]), to_day or dt.date.max
        with_texts = texts[0] if texts else dt.date.max
        return {name: await _count(conn, check, first, last, with_texts) for name, check in CHECKS.items()}


async def _count(
    conn: asyncpg.Connection[Any], check: str, first: dt.date, last: dt.date, with_texts: dt.date
) -> int:
    bounds = (first, last, with_texts)
    # $3 is mentioned in every statement, since a parameter without a use has no type.
    counted: int = await conn.fetchval(
        f"SELECT count(*) {check} AND x.day BETWEEN $1 AND $2 AND $3::date IS NOT NULL",
        *bounds,
    )
    return counted
