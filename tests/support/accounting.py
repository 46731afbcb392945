"""The sums that law 1 and 2 promise, read from the database."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from sentinel.store.engine import libpq_url


@dataclass(frozen=True)
class Account:
    """What the store says about a topic."""

    outcomes: dict[str, int]
    """Items by ``outcome`` or ``outcome(reason)``."""
    records: int
    holes: int
    lost: int
    advanced: int
    interactions: int
    texts: int
    keys: int
    verdicts: int
    findings: int
    dead_letters: int

    @property
    def items(self) -> int:
        return sum(self.outcomes.values())


async def account(url: str, topic: str) -> Account:
    """Read the account of one topic (all incarnations of its partitions)."""
    conn = await asyncpg.connect(libpq_url(url))
    try:
        sums = await conn.fetch(
            "SELECT outcome, reason, sum(n)::int AS n FROM partition_outcomes WHERE topic = $1 GROUP BY 1, 2",
            topic,
        )
        progress = await conn.fetchrow(
            "SELECT coalesce(sum(records), 0)::int AS records, coalesce(sum(holes), 0)::int AS holes,"
            " coalesce(sum(lost), 0)::int AS lost, coalesce(sum(next_offset - first_offset), 0)::int AS advanced"
            " FROM consumer_offsets WHERE topic = $1",
            topic,
        )
        assert progress is not None
        counts = {
            table: await conn.fetchval(f"SELECT count(*)::int FROM {table}")  # our own names
            for table in (
                "interactions",
                "interaction_texts",
                "event_keys",
                "verdicts",
                "findings",
                "dead_letters",
            )
        }
    finally:
        await conn.close()
    return Account(
        outcomes={
            f"{row['outcome']}({row['reason']})" if row["reason"] else row["outcome"]: row["n"]
            for row in sums
        },
        records=progress["records"],
        holes=progress["holes"],
        lost=progress["lost"],
        advanced=progress["advanced"],
        interactions=counts["interactions"],
        texts=counts["interaction_texts"],
        keys=counts["event_keys"],
        verdicts=counts["verdicts"],
        findings=counts["findings"],
        dead_letters=counts["dead_letters"],
    )


async def next_offsets(url: str, topic: str) -> dict[int, int]:
    """The position of record of each partition that was ever taken over."""
    conn = await asyncpg.connect(libpq_url(url))
    try:
        rows = await conn.fetch("SELECT partition, next_offset FROM consumer_offsets WHERE topic = $1", topic)
    finally:
        await conn.close()
    return {row["partition"]: row["next_offset"] for row in rows}


def assert_sums(found: Account, *, records: int) -> None:
    """Every record is counted once, every kept item is stored once, and all tables agree."""
    assert found.records == records
    assert found.advanced == found.records + found.holes + found.lost
    kept = sum(n for name, n in found.outcomes.items() if name.startswith(("stored", "unscored")))
    assert found.interactions == found.texts == found.keys == kept
    dead = sum(n for name, n in found.outcomes.items() if name.startswith("dead_letter"))
    assert found.dead_letters == dead
