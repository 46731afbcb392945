"""What was said expires everywhere: no table keeps a text beyond the term of its kind."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import orjson
from pydantic import SecretStr

from sentinel.clock import ManualClock, SystemClock
from sentinel.embedded.scripted_guard import ECHO_MARK, ScriptedGuard
from sentinel.embedded.scripted_model import SAFE_ANSWER, TEMPT_MARK, ScriptedModel
from sentinel.settings import Database, Retention
from sentinel.settings.model import DEFAULT_INSTRUCTION
from sentinel.store.engine import create_engine
from sentinel.store.retention import Maintained, maintain
from tests.integration.reprompting.conftest import Store
from tests.support.brokers import Broker
from tests.support.events import encoded
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until

SAID = "a private word"
TERMS = Retention(
    texts_days=30, interactions_days=90, pairs_days=200, keys_days=300, dead_letters_days=20, outbox_days=7
)


def records() -> list[bytes]:
    """Texts wherever a record may hold some: prompt, answer, reasoning, keys of its own, ratings, garbage."""
    prompt = [{"role": "user", "content": f"{TEMPT_MARK} {SAID}"}]
    rating = [{"label": "safe", "comment": SAID}]
    return [
        encoded(1, unsafe=True, messages=prompt, note={"draft": SAID}, verdicts=rating),
        encoded(2, response=f"{ECHO_MARK} {SAID}"),
        encoded(3, messages=[{"role": "user", "content": SAID}], response=""),
        b'{"response": "' + SAID.encode(),
        orjson.dumps([{"response": SAID}, {"prompt": SAID}]),
    ]


async def _write(broker: Broker, database_url: str, store: Store) -> None:
    """Let the whole service fill its tables, and its announcements leave."""
    topics = [await asyncio.to_thread(lambda: broker.create_topic(partitions=1)) for _ in range(3)]
    held = records()
    await asyncio.to_thread(broker.produce, topics[0], held)
    async with ScriptedGuard() as guard, ScriptedModel(obeys=DEFAULT_INSTRUCTION) as model:
        settings = settings_for(
            bootstrap=broker.bootstrap, topic=topics[0], database_url=database_url, guard_url=guard.url,
            kafka={"findings_topic": topics[1], "dead_letters_topic": topics[2]},
            findings={"include_text": True},
            reprompt={"enabled": True, "poll_interval_s": 0.1, "timeout_s": 5.0},
            served_models={
                "shop": {
                    "public_name": "model-a", "base": "base/weights", "event_models": ("model-*",),
                    "replicas": (model.url,),
                }
            },
        )  # fmt: skip
        async with running(settings) as service:
            await caught_up(service, len(held))
            await store.until()

            async def sent() -> bool:
                (row,) = await store.rows(
                    "SELECT count(*) AS n, count(*) FILTER (WHERE sent_at IS NULL) AS unsent FROM outbox"
                )
                return bool(row["n"] >= 4 and row["unsent"] == 0)

            await wait_until(sent, timeout=60)


async def _where(store: Store, said: str) -> set[str]:
    """The tables that hold ``said``, as text or as bytes, in any column."""
    names = await store.rows(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    query = "SELECT count(*) AS n FROM {} AS t WHERE strpos(t::text, $1) > 0 OR strpos(t::text, $2) > 0"
    found = set()
    for name in (row["relname"] for row in names):
        (row,) = await store.rows(query.format(name), said, said.encode().hex())
        if row["n"]:
            found.add(name)
    return found


async def test_no_table_keeps_a_text_beyond_its_term(
    embedded_broker: Broker, database_url: str, store: Store
) -> None:
    await _write(embedded_broker, database_url, store)
    texts = {"interaction_texts", "verdicts", "interactions"}
    assert await _where(store, SAID) == {*texts, "dead_letters", "outbox", "preference_pairs"}
    assert await _where(store, SAFE_ANSWER) == {"reprompts", "preference_pairs"}
    engine = create_engine(Database(url=SecretStr(database_url), pool_size=2))
    begun = SystemClock().now()

    async def after(days: int) -> Maintained:
        return await maintain(engine, TERMS, ManualClock(begun + dt.timedelta(days=days)))

    try:
        done = await after(21)
        assert (done.outbox > 0, done.dead_letters, done.second_answers) == (True, 3, 0)
        assert await _where(store, SAID) == {*texts, "preference_pairs"}
        # The second answer expires with the first, and so does what rows that are kept longer quote.
        assert (await after(32)).second_answers == 1
        assert await _where(store, SAID) == await _where(store, SAFE_ANSWER) == {"preference_pairs"}
        assert (await after(33)).second_answers == 0
        # A data set is made of all pairs, so that they are kept longer; in the end they go, too.
        assert (await after(202)).pairs == 1
        assert await _where(store, SAID) == await _where(store, SAFE_ANSWER) == set()
    finally:
        await engine.dispose()


async def test_what_is_no_text_stays_for_its_own_term(
    embedded_broker: Broker, database_url: str, store: Store
) -> None:
    await _write(embedded_broker, database_url, store)

    async def kept() -> list[dict[str, Any]]:
        return await store.rows(
            "SELECT i.event_id, i.model, i.outcome, i.reason, i.unsafe, v.role, v.attempt, v.label, v.categories,"
            " v.guard_id, r.generator, r.instruction_version, r.unsafe AS second_unsafe, f.reprompt_state"
            " FROM interactions i JOIN verdicts v USING (day, event_id) LEFT JOIN findings f USING (event_id)"
            " LEFT JOIN reprompts r USING (finding_id) ORDER BY 1, 6, 7"
        )

    before = await kept()
    assert {row["label"] for row in before} == {"safe", "unsafe", "unparseable"}
    engine = create_engine(Database(url=SecretStr(database_url), pool_size=2))
    try:
        await maintain(engine, TERMS, ManualClock(SystemClock().now() + dt.timedelta(days=40)))
    finally:
        await engine.dispose()
    assert await kept() == before
    rows = await store.rows("SELECT raw FROM verdicts WHERE label <> 'unparseable'")
    assert all(row["raw"] for row in rows)
