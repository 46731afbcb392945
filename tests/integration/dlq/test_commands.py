"""``sentinel dlq`` and ``sentinel offsets`` on real servers."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import orjson
import pytest

from sentinel.clock import SystemClock
from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.events import EVENT_ID_HEADER, REPLAY_ITEM_HEADER, REPLAY_TOKEN_HEADER
from sentinel.store import dead_letters, halts, offsets
from tests.integration.dlq.conftest import Connect, Program, letter
from tests.support.brokers import ApacheKafka, Broker
from tests.support.events import encoded, event
from tests.support.kafka_client import Record
from tests.support.relays import read_all
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until


async def keep(connect: Connect, *letters: object) -> None:
    async with connect() as conn:
        await dead_letters.insert(conn, list(letters), now=SystemClock().now(), code_version="0.9")  # type: ignore[arg-type]


async def test_list_and_show(connect: Connect, sentinel: Program) -> None:
    await keep(
        connect,
        letter(1, detail="line 1"),
        letter(2, reason="too_large", topic="other", value=b'{"a": "\x1b[31mred\x00"}\xff', key=b"k"),
    )
    plain = await sentinel("dlq", "list")
    assert plain.status == 0, plain.err
    assert "invalid_json" in plain.text
    assert "2 shown of 2 kept: invalid_json 1, too_large 1" in plain.text
    listed = (await sentinel("dlq", "list", "--json", "--reason", "too_large", "--since", "1h")).json
    assert [one["topic"] for one in listed["dead_letters"]] == ["other"]
    assert listed["counts"] == {"invalid_json": 1, "too_large": 1}
    letter_id = listed["dead_letters"][0]["dead_letter_id"]
    (row,) = (line for line in plain.text.splitlines() if letter_id in line)
    assert "too_large" in row, "one letter, one line, also where no terminal is"
    shown = await sentinel("dlq", "show", letter_id)
    assert "\x1b" not in shown.text  # what a producer sent must not steer the operator's terminal
    assert "\\x1b[31mred\\x00" in shown.text
    assert (await sentinel("dlq", "show", letter_id, "--raw")).out == b'{"a": "\x1b[31mred\x00"}\xff'
    assert (await sentinel("dlq", "show", letter_id, "--json")).json["key"] == "k"
    none = await sentinel("dlq", "show", str(uuid4()))
    assert (none.status, "no dead letter" in none.err) == (2, True)
    wrong = await sentinel("dlq", "list", "--since", "yesterday")
    assert (wrong.status, "is no time" in wrong.err) == (2, True)
    assert (await sentinel("dlq", "list", "--until", "1d", "--json")).json["dead_letters"] == []


async def test_a_replayed_letter_is_stored_once_under_its_own_id(
    broker: Broker, database_url: str, connect: Connect, sentinel: Program
) -> None:
    topic = await asyncio.to_thread(lambda: broker.create_topic(partitions=1))
    body = orjson.dumps(event(1, id=None))  # nothing in the record identifies it
    lost = uuid4()
    await keep(
        connect,
        letter(10, topic=topic, value=body, event_id=lost, headers=(("own", b"1"),), reason="decoder_error"),
        letter(11, topic=topic, value=b"{still broken"),
    )
    sentinel.uses(broker.bootstrap, topic)
    dry = await sentinel("dlq", "replay", "--reason", "decoder_error", "--dry-run")
    assert (dry.status, "1 would be sent" in dry.text) == (0, True)
    refused = await sentinel("dlq", "replay", "--reason", "decoder_error", answer="n\n")
    assert refused.status == 1
    assert await read_all(broker.bootstrap, topic) == []
    sent = await sentinel("dlq", "replay", "--reason", "decoder_error", "--yes", "--actor", "ann")
    assert sent.status == 0, sent.err
    (record,) = await read_all(broker.bootstrap, topic)
    headers = dict(record.headers)
    assert (record.value, headers["own"], headers[EVENT_ID_HEADER]) == (body, b"1", str(lost).encode())
    assert headers[REPLAY_ITEM_HEADER] == b"0"
    # Sent before: only on request. And a copy of the headers on another record is that record's own event.
    assert (
        "no dead letter matches" in (await sentinel("dlq", "replay", "--reason", "decoder_error", "-y")).text
    )
    assert (await sentinel("dlq", "replay", "--reason", "decoder_error", "-y", "--again")).status == 0
    forged = Record(value=orjson.dumps(event(2, id=None)), headers=list(record.headers))
    await asyncio.to_thread(broker.produce, topic, [forged, encoded(3)])
    async with ScriptedGuard() as guard:
        settings = settings_for(
            bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url
        )
        async with running(settings) as service:
            await caught_up(service, 4)
    async with connect() as conn:
        found = {row["event_id"] for row in await conn.fetch("SELECT event_id FROM interactions")}
        outcomes = {
            row["outcome"]: row["n"] for row in await conn.fetch("SELECT outcome, n FROM partition_outcomes")
        }
        state = await conn.fetchrow("SELECT replays, replayed_at FROM dead_letters WHERE event_id = $1", lost)
        audit = await conn.fetch("SELECT actor, action FROM audit_log ORDER BY id")
    assert lost in found
    assert len(found) == 3
    assert outcomes == {"stored": 3, "duplicate": 1}
    assert state is not None
    assert (state["replays"], state["replayed_at"] is not None) == (2, True)
    assert tuple(audit[0]) == ("ann", "dlq replay")


async def test_letters_by_id_and_from_files(kafka: ApacheKafka, connect: Connect, sentinel: Program) -> None:
    topic = await asyncio.to_thread(lambda: kafka.create_topic(partitions=1))
    sentinel.uses(kafka.bootstrap, topic)
    await keep(connect, letter(1, topic="file:abc"), letter(2, topic=topic), letter(3, topic="gone-topic"))
    async with connect() as conn:
        ids: dict[int, UUID] = {
            row["offset"]: row["dead_letter_id"]
            for row in await conn.fetch('SELECT "offset", dead_letter_id FROM dead_letters')
        }
    from_file = await sentinel("dlq", "replay", str(ids[1]), "--yes")
    assert (from_file.status, "is a file" in from_file.err) == (2, True)
    assert (await sentinel("dlq", "replay", str(ids[1]), "--to", topic, "--yes")).status == 0
    assert (await sentinel("dlq", "replay", str(ids[2]), "--yes")).status == 0
    unknown = await sentinel("dlq", "replay", str(uuid4()), "--yes")
    assert (unknown.status, "no such dead letter" in unknown.err) == (2, True)
    records = await read_all(kafka.bootstrap, topic)
    assert [record.value for record in records] == [b"{broken", b"{broken"]
    tokens = {dict(record.headers)[REPLAY_TOKEN_HEADER] for record in records}
    assert len(tokens) == 2


async def test_no_broker_is_said_and_nothing_counts_as_sent(
    connect: Connect, sentinel: Program, free_port: int
) -> None:
    sentinel.uses(f"127.0.0.1:{free_port}", "llm.events")
    await keep(connect, letter(1))
    away = await sentinel("dlq", "replay", "--yes")
    assert (away.status, "Kafka does not answer" in away.err) == (1, True)
    async with connect() as conn:
        assert await conn.fetchval("SELECT replays FROM dead_letters") == 0


async def test_a_flood_halts_and_resume_lets_it_go_on(
    kafka: ApacheKafka, database_url: str, connect: Connect, sentinel: Program
) -> None:
    topic = await asyncio.to_thread(lambda: kafka.create_topic(partitions=1))
    await asyncio.to_thread(kafka.produce, topic, [*[b"{broken"] * 60, *[encoded(n) for n in range(5)]])
    async with ScriptedGuard() as guard:
        settings = settings_for(
            bootstrap=kafka.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url,
            consumer={"bad_consecutive": 20, "halt_check_s": 0.2},
        )  # fmt: skip
        async with running(settings) as service:
            await wait_until(lambda: any(t.halted for t in service.intake.loop.owned), timeout=60)
            halted = (await sentinel("dlq", "list", "--json", "--limit", "1")).json["halted"]
            assert [(one["topic"], one["halted"]) for one in halted] == [(topic, "flood")]
            foreign = await sentinel("offsets", "reset", topic, "0", "--to", "latest", "--yes")
            assert foreign.status != 0
            resumed = await sentinel("dlq", "resume", topic, "0", "--allow", "100")
            assert resumed.status == 0, resumed.err
            await caught_up(service, 65)
            assert not any(t.halted for t in service.intake.loop.owned)
    async with connect() as conn:
        assert await conn.fetchval("SELECT count(*) FROM dead_letters") == 60
        assert await conn.fetchval("SELECT count(*) FROM interactions") == 5
        assert await conn.fetchval("SELECT actor FROM audit_log WHERE action = 'dlq resume'") is not None


async def test_a_topic_made_anew_is_read_after_a_reset(
    kafka: ApacheKafka, database_url: str, connect: Connect, sentinel: Program
) -> None:
    topic = await asyncio.to_thread(lambda: kafka.create_topic(partitions=1))
    sentinel.uses(kafka.bootstrap, topic)
    async with connect() as conn:
        await offsets.take_over(
            conn, topic=topic, partition=0, cluster_id=kafka.cluster_id(), group_id="sentinel-test",
            owner="before", start=500,
        )  # fmt: skip
    await asyncio.to_thread(kafka.produce, topic, [encoded(n) for n in range(10)])
    async with ScriptedGuard() as guard:
        settings = settings_for(
            bootstrap=kafka.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url,
            consumer={"halt_check_s": 0.2},
        )  # fmt: skip
        async with running(settings) as service:
            await wait_until(
                lambda: any(t.halted == "foreign" for t in service.intake.loop.owned), timeout=60
            )
            resumed = await sentinel("dlq", "resume", topic, "0", "--allow", "5")
            assert (resumed.status, "offsets reset" in resumed.err) == (2, True)
            unsure = await sentinel("offsets", "reset", topic, "0", "--to", "earliest")
            assert (unsure.status, "--yes" in unsure.err) == (2, True)
            beyond = await sentinel("offsets", "reset", topic, "0", "--to", "11", "--yes")
            assert (beyond.status, "outside" in beyond.err) == (2, True), beyond.err
            absent = await sentinel("offsets", "reset", topic, "9", "--to", "earliest", "--yes")
            assert (absent.status, "know no partition" in absent.err) == (2, True)
            reset = await sentinel("offsets", "reset", topic, "0", "--to", "4", "--yes", "--actor", "bob")
            assert reset.status == 0, reset.err
            assert "from offset 4 as incarnation 1" in reset.text
            await wait_until(lambda: [t.next_offset for t in service.intake.loop.owned] == [10], timeout=60)
    async with connect() as conn:
        assert await conn.fetchval("SELECT count(*) FROM interactions") == 6
        assert await halts.read_halts(conn) == []
        assert await conn.fetchval("SELECT actor FROM audit_log WHERE action = 'offsets reset'") == "bob"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259200)])
def test_spans_count_back_from_now(text: str, seconds: int) -> None:
    from daemon.commands.operators import moment

    now = SystemClock().now()
    found = moment(text, now)
    assert found is not None
    assert (now - found).total_seconds() == seconds
