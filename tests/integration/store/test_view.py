from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from sentinel.store.engine import libpq_url
from sentinel.store.partitions import ensure_partitions
from tests.integration.store.samples import DAY, add_event, add_finding, add_pair
from tests.support.postgres import Databases

pytestmark = pytest.mark.postgres14

Conn: TypeAlias = "asyncpg.Connection[Any]"

COLUMNS = [
    ("prompt_id", "text"),
    ("prompt", "text"),
    ("answer", "text"),
    ("rejected_answer", "text"),
    ("refusal", "boolean"),
    ("guard_rating", "text"),
    ("guard_model", "text"),
    ("model", "text"),
    ("timestamp", "timestamp with time zone"),
]
NOON = dt.datetime.combine(DAY, dt.time(12), dt.UTC)


@pytest.fixture
async def day(conn: Conn) -> None:
    await ensure_partitions(conn, DAY, 0)


async def _entries(conn: Conn) -> list[tuple[Any, ...]]:
    return [tuple(row)[1:] for row in await conn.fetch("SELECT * FROM data_entries ORDER BY answer")]


async def test_nine_columns(conn: Conn) -> None:
    rows = await conn.fetch(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_name = 'data_entries' ORDER BY ordinal_position"
    )
    assert [tuple(row) for row in rows] == COLUMNS


@pytest.mark.usefixtures("day")
async def test_a_safe_answer(conn: Conn) -> None:
    event_id = await add_event(conn, prompt="How do I boil an egg?", response="In hot water.")
    row = await conn.fetchrow("SELECT * FROM data_entries WHERE prompt_id = $1", str(event_id))
    assert row is not None
    assert dict(row) == {
        "prompt_id": str(event_id),
        "prompt": "How do I boil an egg?",
        "answer": "In hot water.",
        "rejected_answer": None,
        "refusal": False,
        "guard_rating": "safe",
        "guard_model": "guard-a",
        "model": "model-a",
        "timestamp": NOON,
    }


@pytest.mark.usefixtures("day")
async def test_a_finding_without_and_with_a_pair(conn: Conn) -> None:
    event_id = await add_event(conn, label="unsafe", prompt="p", response="bad")
    finding_id = await add_finding(conn, DAY, event_id)
    assert await _entries(conn) == [("p", "bad", None, False, "unsafe", "guard-a", "model-a", NOON)]
    await add_pair(conn, finding_id, event_id, "good", "bad", attempt=2)
    assert await _entries(conn) == [("p", "good", "bad", False, "unsafe", "guard-a", "model-a", NOON)]
    # A second pair does not double the row: the earliest attempt that was safe stands for the finding.
    await add_pair(conn, finding_id, event_id, "first good", "bad", attempt=1)
    assert await _entries(conn) == [("p", "first good", "bad", False, "unsafe", "guard-a", "model-a", NOON)]


@pytest.mark.usefixtures("day")
async def test_the_prompt_is_the_last_thing_that_the_user_said(conn: Conn) -> None:
    await add_event(
        conn,
        messages=[
            {"role": "system", "text": "Be kind."},
            {"role": "user", "text": "Hello."},
            {"role": "assistant", "text": "Hello!"},
            {"role": "user", "text": "And now?"},
            {"role": "tool", "text": "42"},
        ],
    )
    assert [row[0] for row in await _entries(conn)] == ["And now?"]


@pytest.mark.usefixtures("day")
async def test_an_unscored_answer_has_no_rating(conn: Conn) -> None:
    await add_event(conn, label=None, refusal=None)
    ((_, answer, rejected, refusal, rating, *_),) = await _entries(conn)
    assert (answer, rejected, refusal, rating) == ("In hot water.", None, None, None)


@pytest.mark.usefixtures("day")
async def test_expired_texts_leave_the_rest(conn: Conn) -> None:
    event_id = await add_event(conn, label="unsafe", response="bad")
    await add_pair(conn, await add_finding(conn, DAY, event_id), event_id, "good", "bad")
    await add_event(conn, response="zero")
    await conn.execute("DELETE FROM interaction_texts")
    assert [row[:3] for row in await _entries(conn)] == [(None, "good", "bad"), (None, None, None)]


# -- indexes


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]


async def _indexes(conn: Conn, query: str, *args: object) -> set[str]:
    """The parents' names of the indexes that the planner takes for ``query``, without being forced."""
    text = await conn.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *args)
    plan = json.loads(text)[0]["Plan"]
    used = {node["Index Name"] for node in _nodes(plan) if "Index Name" in node}
    scans = {node["Relation Name"] for node in _nodes(plan) if node["Node Type"] == "Seq Scan"}
    assert not scans, (query, scans)
    return {
        await conn.fetchval(
            "SELECT coalesce((SELECT inhparent::regclass::text FROM pg_inherits"
            " WHERE inhrelid = to_regclass($1)), $1)",
            name,
        )
        for name in used
    }


async def _fill(conn: Conn) -> None:
    """20,000 events of one day, one in fifty unsafe, and as many outbox rows, nearly all sent and done."""
    await ensure_partitions(conn, DAY, 0)
    await conn.execute(
        """
        CREATE TEMP TABLE n AS SELECT g, gen_random_uuid() AS id, g % 50 = 0 AS unsafe,
            '2026-03-01T00:00Z'::timestamptz + g * interval '1 s' AS at
        FROM generate_series(1, 20000) g;
        INSERT INTO event_keys (event_id, day, hash, topic, incarnation, partition, "offset", item, outcome)
            SELECT id, date '2026-03-01' - g / 200, 'h', 't', 0, 0, g, 0, 'stored' FROM n;
        INSERT INTO interactions (day, event_id, received_at, recorded_at, format, served_model, served_by,
                outcome, unsafe, policy_version)
            SELECT '2026-03-01', id, at, at, 'native', 'm' || g % 20, 'a' || g % 20, 'stored', unsafe, 'p'
            FROM n ORDER BY g;
        INSERT INTO interaction_texts (day, event_id, messages, response)
            SELECT '2026-03-01', id, '[]', repeat('x', 300) FROM n;
        INSERT INTO verdicts (day, event_id, role, attempt, guard_id, score_run, label, categories, raw,
                guard_model, template, policy_version)
            SELECT '2026-03-01', id, 'response', 0, 'g', 0, 'safe', '{}', 'r', 'g', 't', 'p' FROM n;
        INSERT INTO findings (finding_id, event_id, day, created_at, policy_version, label, categories,
                guard_id, reprompt_state)
            SELECT gen_random_uuid(), id, '2026-03-01', at, 'p', 'unsafe', '{}', 'g',
                CASE WHEN g % 1000 = 0 THEN 'pending' ELSE 'safe' END FROM n;
        INSERT INTO preference_pairs (pair_id, finding_id, event_id, attempt, served_model, prompt, chosen,
                rejected, chosen_generator, rejected_generator, guard_id, policy_version, created_at)
            SELECT gen_random_uuid(), finding_id, event_id, 1, 'm' || extract(second FROM created_at), '[]', 'a',
                'b', 'x', 'y', 'g', 'p', created_at FROM findings;
        INSERT INTO outbox (topic, sent_at) SELECT 't' || g % 2, CASE WHEN g % 500 <> 0 THEN at END FROM n;
        INSERT INTO dead_letters (dead_letter_id, topic, incarnation, partition, "offset", item, reason,
                error_class, code_version, first_seen)
            SELECT id, 't', 0, 0, g, 0, 'reason' || g % 40, 'E', '0', at FROM n;
        ANALYZE;
        """
    )


@pytest.fixture(scope="module")
def filled_url(postgres_server: Databases) -> Iterator[str]:
    """One filled database for all tests of this file; they only ask for plans."""

    async def fill(url: str) -> None:
        conn = await asyncpg.connect(libpq_url(url))
        await _fill(conn)
        await conn.close()

    with asyncio.Runner() as runner:
        database = postgres_server.database()
        url = runner.run(database.__aenter__())
        runner.run(fill(url))
        yield url
        runner.run(database.__aexit__(None, None, None))


@pytest.fixture
async def many(filled_url: str) -> AsyncIterator[Conn]:
    """A connection to the filled database."""
    connection = await asyncpg.connect(libpq_url(filled_url))
    yield connection
    await connection.close()


async def _an_id(conn: Conn, table: str) -> Any:
    return await conn.fetchval(f"SELECT event_id FROM {table} OFFSET 77 LIMIT 1")


async def test_duplicates_are_looked_up_by_key(many: Conn) -> None:
    ids = [await _an_id(many, "event_keys")]
    used = await _indexes(many, "SELECT * FROM event_keys WHERE event_id = ANY($1::uuid[])", ids)
    assert used == {"pk_event_keys"}


async def test_old_keys_are_found_by_day(many: Conn) -> None:
    used = await _indexes(many, "SELECT ctid FROM event_keys WHERE day < date '2025-11-25'")
    assert used == {"ix_event_keys_day"}


async def test_interactions_by_time(many: Conn) -> None:
    hour = "recorded_at BETWEEN '2026-03-01T03:00Z' AND '2026-03-01T03:10Z'"
    assert await _indexes(many, f"SELECT * FROM interactions WHERE {hour}") == {"ix_interactions_recorded_at"}


async def test_the_latest_unsafe_answers(many: Conn) -> None:
    used = await _indexes(many, "SELECT * FROM interactions WHERE unsafe ORDER BY recorded_at DESC LIMIT 20")
    assert used == {"ix_interactions_unsafe"}


async def test_the_rate_of_one_adapter(many: Conn) -> None:
    used = await _indexes(
        many,
        "SELECT count(*) FROM interactions WHERE served_model = 'm3' AND served_by = 'a3'"
        " AND recorded_at > '2026-03-01T05:00Z'",
    )
    assert used == {"ix_interactions_served"}


async def test_one_event_with_all_that_belongs_to_it(many: Conn) -> None:
    event_id = await _an_id(many, "interactions")
    for table in ("interactions", "interaction_texts", "verdicts"):
        used = await _indexes(many, f"SELECT * FROM {table} WHERE day = $1 AND event_id = $2", DAY, event_id)
        assert used == {f"pk_{table}"}


async def test_findings_to_claim(many: Conn) -> None:
    used = await _indexes(
        many,
        "SELECT finding_id FROM findings WHERE reprompt_state IN ('pending', 'claimed')"
        " AND (lease_until IS NULL OR lease_until < now())"
        " ORDER BY created_at LIMIT 8 FOR UPDATE SKIP LOCKED",
    )
    assert used == {"ix_findings_claimable"}


async def test_a_page_of_findings(many: Conn) -> None:
    used = await _indexes(
        many,
        "SELECT * FROM findings WHERE (created_at, finding_id) < ('2026-03-01T04:00Z', $1)"
        " ORDER BY created_at DESC, finding_id DESC LIMIT 50",
        await many.fetchval("SELECT finding_id FROM findings LIMIT 1"),
    )
    assert used == {"ix_findings_created_at"}


async def test_the_outbox_to_send_and_to_sweep(many: Conn) -> None:
    used = await _indexes(
        many,
        "SELECT id FROM outbox WHERE topic = 't0' AND sent_at IS NULL ORDER BY id LIMIT 100"
        " FOR UPDATE SKIP LOCKED",
    )
    assert used == {"ix_outbox_unsent"}
    used = await _indexes(many, "SELECT id FROM outbox WHERE sent_at < '2026-03-01T00:10Z' LIMIT 100")
    assert used == {"ix_outbox_sent_at"}


async def test_pairs_of_a_served_model_and_of_a_finding(many: Conn) -> None:
    used = await _indexes(
        many, "SELECT * FROM preference_pairs WHERE served_model = 'm3' ORDER BY created_at LIMIT 50"
    )
    assert used == {"ix_preference_pairs_served"}
    finding_id = await many.fetchval("SELECT finding_id FROM findings LIMIT 1")
    used = await _indexes(many, "SELECT * FROM preference_pairs WHERE finding_id = $1", finding_id)
    assert used == {"ix_preference_pairs_finding_id"}


async def test_dead_letters_by_time_and_by_reason(many: Conn) -> None:
    used = await _indexes(
        many, "SELECT * FROM dead_letters ORDER BY first_seen DESC, dead_letter_id DESC LIMIT 20"
    )
    assert used == {"ix_dead_letters_first_seen"}
    used = await _indexes(many, "SELECT count(*) FROM dead_letters WHERE reason = 'reason7'")
    assert used == {"ix_dead_letters_reason"}


async def test_an_entry_by_time_reads_no_whole_table(many: Conn) -> None:
    used = await _indexes(
        many,
        "SELECT * FROM data_entries WHERE \"timestamp\" BETWEEN '2026-03-01T03:00Z' AND '2026-03-01T03:01Z'",
    )
    assert "ix_interactions_recorded_at" in used
    assert {"pk_interaction_texts", "uq_findings_event_id", "ix_preference_pairs_finding_id"} <= used
