from __future__ import annotations

import datetime as dt
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from sentinel.errors import CommandError
from sentinel.store.partitions import drop_partition, ensure_partitions, partitions
from sentinel.store.reading import Position, event, findings, interactions
from tests.integration.store.samples import DAY, add_event, add_finding, add_pair, add_verdict

Conn: TypeAlias = "asyncpg.Connection[Any]"
BEGINNING = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
async def days(conn: Conn) -> None:
    await ensure_partitions(conn, DAY, 2)


async def test_pages_of_findings_have_every_row_once(conn: Conn) -> None:
    added = [await add_finding(conn, DAY, uuid4()) for _ in range(7)]
    # Three share one instant: the id decides between them.
    await conn.execute(
        "UPDATE findings SET created_at = '2026-03-01T12:00Z' WHERE finding_id = ANY($1)", added[:3]
    )
    seen: list[UUID] = []
    before: Position | None = None
    sizes = []
    while True:
        page = await findings(conn, before=before, limit=2)
        seen += [row.finding_id for row in page.rows]
        sizes.append(len(page.rows))
        if sizes == [2]:
            # What arrives in front of the reader changes no later page.
            await add_finding(conn, DAY, uuid4())
        if page.next is None:
            break
        before = Position.decode(page.next.encode())
    assert sizes == [2, 2, 2, 1]
    assert sorted(seen) == sorted(added)
    rows = (await findings(conn)).rows
    assert [row.created_at for row in rows] == sorted((row.created_at for row in rows), reverse=True)


async def test_interactions_all_and_unsafe(conn: Conn) -> None:
    for day in range(3):
        for label in ("safe", "unsafe", None):
            await add_event(conn, DAY + dt.timedelta(days=day), label=label)
    page = await interactions(conn, since=BEGINNING, limit=5)
    rest = await interactions(conn, since=BEGINNING, before=page.next)
    assert (len(page.rows), len(rest.rows), rest.next) == (5, 4, None)
    assert len({row.event_id for row in (*page.rows, *rest.rows)}) == 9
    bad = await interactions(conn, since=BEGINNING, unsafe=True)
    assert [row.response_label for row in bad.rows] == ["unsafe"] * 3
    late = await interactions(conn, since=dt.datetime(2026, 3, 3, tzinfo=dt.UTC))
    assert {row.day for row in late.rows} == {DAY + dt.timedelta(days=2)}
    assert {row.outcome for row in late.rows} == {"stored", "unscored"}


async def test_one_event_with_everything(conn: Conn) -> None:
    event_id = await add_event(conn, label="unsafe", prompt="p", response="bad")
    await add_verdict(conn, DAY, event_id, "safe", attempt=1)
    finding_id = await add_finding(conn, DAY, event_id)
    await add_pair(conn, finding_id, event_id, "good", "bad")
    found = await event(conn, event_id)
    assert found is not None
    assert found.texts is not None
    assert found.finding is not None
    assert found.interaction["unsafe"] is True
    assert found.texts["messages"] == [{"role": "user", "text": "p"}]
    assert [(row["attempt"], row["label"]) for row in found.verdicts] == [(0, "unsafe"), (1, "safe")]
    assert found.finding["finding_id"] == finding_id
    assert [row["chosen"] for row in found.pairs] == ["good"]
    assert found.pairs[0]["prompt"] == []
    assert found.reprompts == found.screenings == ()


async def test_what_is_gone_is_none(conn: Conn) -> None:
    assert await event(conn, uuid4()) is None
    event_id = await add_event(conn)
    (texts, *_) = await partitions(conn, "interaction_texts")
    await drop_partition(conn, texts)
    found = await event(conn, event_id)
    assert found is not None
    assert found.texts is None
    (rows, *_) = await partitions(conn, "interactions")
    await drop_partition(conn, rows)
    assert await event(conn, event_id) is None


@pytest.mark.parametrize("word", ["", "x", "bm9uc2Vuc2U", "WyIyMDI2Il0", "é", "WzEsMl0"])
def test_a_made_up_position_is_refused(word: str) -> None:
    with pytest.raises(CommandError, match="position"):
        Position.decode(word)


def test_a_position_without_a_zone_is_refused() -> None:
    naive = Position(dt.datetime(2026, 1, 1), uuid4())  # noqa: DTZ001 -- the case under test
    with pytest.raises(CommandError, match="position"):
        Position.decode(naive.encode())


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_page_has_a_size(conn: Conn, limit: int) -> None:
    with pytest.raises(CommandError, match="1 to 500"):
        await findings(conn, limit=limit)
