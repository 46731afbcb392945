"""What the store says about the work: halted partitions, gaps, backlogs, dead letters, shared response ids."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from daemon.doctor.report import Finding, fail, ok, warn
from sentinel.clock import Clock
from sentinel.store import dead_letters, outbox
from sentinel.store.halts import HaltReason, read_halts

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Kafka

    Connection = asyncpg.Connection[Any]

OUTBOX_WARN: Final = dt.timedelta(minutes=1)
OUTBOX_FAIL: Final = dt.timedelta(minutes=15)
REPROMPT_WARN: Final = dt.timedelta(minutes=15)
EXAMINED_INTERACTIONS: Final = 200_000
"""Newest rows that are looked through for response ids under two tenants: some hundred milliseconds."""


async def check_halts(conn: Connection) -> list[Finding]:
    """Partitions that wait for an operator, each with the command that clears it."""
    found = []
    for state in await read_halts(conn):
        place = f"{state.topic} {state.partition}"
        since = f"{state.halted_at:%Y-%m-%d %H:%M}Z" if state.halted_at else "an unknown time"
        text = f"{place} is halted ({state.halted}) since {since}: {state.halted_detail or 'no detail'}"
        if state.halted == HaltReason.FLOOD:
            remedy = (
                f"look at `sentinel dlq list --topic {state.topic}`, mend the producer, then"
                f" `sentinel dlq resume {place} --allow 1000`"
            )
        else:
            remedy = (
                "if the topic was made anew or the cluster replaced on purpose:"
                f" `sentinel offsets reset {place} --to earliest --yes`"
            )
        found.append(fail("halted partitions", text, remedy))
    return found or [ok("halted partitions", "none")]


async def check_gaps(conn: Connection) -> list[Finding]:
    """Records that the log dropped before they were read."""
    row = await conn.fetchrow(
        "SELECT count(*) AS gaps, coalesce(sum(to_offset - from_offset), 0)::bigint AS records,"
        " max(noticed_at) AS latest FROM offset_gaps"
    )
    if row is None or not row["gaps"]:
        return [ok("offset gaps", "none")]
    return [
        warn(
            "offset gaps",
            f"{row['records']} records in {row['gaps']} gap(s) were lost unread, last noticed"
            f" {row['latest']:%Y-%m-%d %H:%M}Z",
            "lengthen the topics' retention.ms beyond the longest outage; the table offset_gaps names the offsets",
        )
    ]


async def check_outbox(conn: Connection, clock: Clock, kafka: Kafka) -> list[Finding]:
    """Announcements that have not left for Kafka."""
    found = []
    for topic in (kafka.findings_topic, kafka.dead_letters_topic, kafka.promotions_topic):
        backlog = await outbox.backlog(conn, topic)
        if backlog.oldest is None:
            continue
        age = clock.now() - backlog.oldest
        text = f"{backlog.rows} records for {topic} wait, the oldest for {_spoken(age)}"
        remedy = "start `sentinel run`; where it runs, look whether the topic exists and may be written"
        if age > OUTBOX_FAIL:
            found.append(fail("outbox", text, remedy))
        elif age > OUTBOX_WARN:
            found.append(warn("outbox", text, remedy))
        else:
            found.append(ok("outbox", text))
    return found or [ok("outbox", "empty")]


async def check_reprompts(conn: Connection, clock: Clock, *, enabled: bool) -> list[Finding]:
    """Findings whose second answer is due."""
    row = await conn.fetchrow(
        "SELECT count(*) AS n, min(created_at) AS oldest FROM findings"
        " WHERE reprompt_state IN ('pending', 'claimed')"
    )
    if row is None or not row["n"]:
        return [ok("re-prompts", "none pending")]
    age = clock.now() - row["oldest"]
    text = f"{row['n']} findings wait for a second answer, the oldest for {_spoken(age)}"
    if not enabled or age <= REPROMPT_WARN:
        return [ok("re-prompts", text if enabled else f"{text}; re-prompting is off (reprompt.enabled)")]
    return [
        warn(
            "re-prompts",
            text,
            "start `sentinel run`, look at the served models' replicas, or raise reprompt.concurrency",
        )
    ]


async def check_dead_letters(conn: Connection) -> list[Finding]:
    """What could not be read, by reason."""
    reasons = await dead_letters.count_by_reason(conn)
    if not reasons:
        return [ok("dead letters", "none")]
    counted = ", ".join(
        f"{number} {reason}" for reason, number in sorted(reasons.items(), key=lambda r: -r[1])
    )
    most = max(reasons, key=lambda reason: reasons[reason])
    return [warn("dead letters", counted, f"look at them with `sentinel dlq list --reason {most}`")]


async def check_tenants(conn: Connection, clock: Clock) -> list[Finding]:
    """Response ids that two tenants share: some engines take the id from a client's header.

    A tenant who guesses another's ids cannot hide that one's events, since ids are made per tenant; but
    whoever joins by response id alone would mix them up.
    """
    since = clock.now().date() - dt.timedelta(days=1)
    row = await conn.fetchrow(
        "SELECT count(*) FILTER (WHERE tenants > 1) AS shared, coalesce(sum(n), 0)::bigint AS examined FROM ("
        "SELECT count(DISTINCT coalesce(tenant, '')) AS tenants, count(*) AS n FROM ("
        "SELECT response_id, tenant FROM interactions WHERE day >= $1 AND response_id IS NOT NULL LIMIT $2"
        ") AS newest GROUP BY response_id) AS grouped",
        since,
        EXAMINED_INTERACTIONS,
    )
    if row is None or not row["shared"]:
        return [ok("response ids", "none under two tenants")]
    return [
        warn(
            "response ids",
            f"{row['shared']} response ids came under more than one tenant (of {row['examined']} events looked at)",
            "let the engine make response ids itself (ignore the client's X-Request-Id), or correct the tenants",
        )
    ]


def _spoken(age: dt.timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
