"""Every example record of every format goes through the whole service and can be stored as it was decoded."""

from __future__ import annotations

import asyncio
import collections

from consumers.formats import decode
from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.errors import PoisonError
from sentinel.events import Headers, PromptEvent
from sentinel.ids import content_hash
from tests.support.accounting import account, assert_sums
from tests.support.brokers import Broker
from tests.support.kafka_client import Record
from tests.support.service import caught_up, running, settings_for
from tests.unit.consumers.formats.examples import NAMES, load, record

ODD_ENDS = (b"\\u0000", b"\\ud83d\\ude00", b"\\ufffe", b"\\u202e", b"\\u0000 long" * 900)


def examples() -> list[tuple[bytes, Headers]]:
    """The examples, and those in JSON once more with endings of texts that databases and terminals dislike."""
    found = [(load(name).value, load(name).headers) for name in NAMES]
    odd = [
        (value.replace(b'."', end + b'"').replace(b".\\", end.replace(b"\\", b"\\\\") + b"\\"), headers)
        for value, headers in found
        if value[:1] in (b"{", b"[")
        for end in ODD_ENDS
    ]
    return found + odd


def expected_of(held: list[tuple[bytes, Headers]]) -> tuple[int, int, collections.Counter[str]]:
    """Interactions (one for each id and text), all items, and how many are ignored or bad, by reason."""
    kept: set[tuple[object, bytes]] = set()
    items = 0
    reasons: collections.Counter[str] = collections.Counter()
    for offset, (value, headers) in enumerate(held):
        try:
            made = decode(record(value, headers, offset))
        except PoisonError as error:
            reasons[f"dead_letter({error.reason})"] += 1
            items += 1
            continue
        items += len(made)
        for item in made:
            if isinstance(item, PromptEvent):
                kept.add(
                    (
                        item.event_id if item.identified else offset,
                        content_hash(item.last_user_text, item.scanned_response),
                    )
                )
            else:
                reasons[f"ignored({item.reason})"] += 1
    return len(kept), items, reasons


async def test_every_example_is_stored(broker: Broker, database_url: str) -> None:
    held = examples()
    assert len(held) > 300
    topic = await asyncio.to_thread(broker.create_topic, partitions=1)
    records = [Record(value, headers=[(key, text) for key, text in headers]) for value, headers in held]
    await asyncio.to_thread(broker.produce, topic, records)
    interactions, items, reasons = expected_of(held)
    async with ScriptedGuard() as guard:
        settings = settings_for(
            bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url
        )
        async with running(settings) as service:
            await caught_up(service, len(records))
    found = await account(database_url, topic)
    assert_sums(found, records=len(records))
    assert found.items == items
    assert found.interactions == interactions
    assert {
        key: n for key, n in found.outcomes.items() if key.startswith(("ignored", "dead_letter"))
    } == reasons
