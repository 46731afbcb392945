"""The whole daemon: what leaves for Kafka, and what happens behind the offset while it monitors."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.embedded.scripted_model import MODEL, SAFE_ANSWER, TEMPT_MARK, ScriptedModel
from sentinel.resources import data_path
from sentinel.settings import Settings
from sentinel.settings.model import DEFAULT_INSTRUCTION
from tests.integration.reprompting.conftest import Store
from tests.support.brokers import Broker
from tests.support.events import encoded
from tests.support.relays import Landed, read_all
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until


def settings_with(
    broker: Broker, topics: dict[str, str], database_url: str, guard: ScriptedGuard, *replicas: str
) -> Settings:
    return settings_for(
        bootstrap=broker.bootstrap, topic=topics["in"], database_url=database_url, guard_url=guard.url,
        kafka={"findings_topic": topics["findings"], "dead_letters_topic": topics["dead"]},
        reprompt={"enabled": True, "poll_interval_s": 0.1, "timeout_s": 5.0},
        served_models={
            "shop": {
                "public_name": "model-a", "base": "base/weights", "event_models": ("model-*",),
                "replicas": replicas,
            }
        },
    )  # fmt: skip


def unsafe(number: int) -> bytes:
    messages = [{"role": "user", "content": f"{TEMPT_MARK} {number}"}]
    return encoded(number, unsafe=True, messages=messages, id=f"e-{number}")


def of_kind(records: list[Landed], kind: str) -> list[Landed]:
    return [record for record in records if dict(record.headers).get("sentinel-kind") == kind.encode()]


def schema(name: str) -> Draft202012Validator:
    loaded: dict[str, Any] = orjson.loads(data_path("configs", "schemas", f"{name}.schema.json").read_bytes())
    return Draft202012Validator(loaded, format_checker=Draft202012Validator.FORMAT_CHECKER)


async def test_findings_and_dead_letters_leave_and_pairs_are_made(
    broker: Broker, database_url: str, store: Store
) -> None:
    topics = {
        name: await asyncio.to_thread(lambda: broker.create_topic(partitions=2))
        for name in ("in", "findings", "dead")
    }
    records = [*(unsafe(n) for n in range(10)), *(encoded(n) for n in range(10, 40)), b"{broken", b"[1"]
    await asyncio.to_thread(broker.produce, topics["in"], records)
    async with ScriptedGuard() as guard, ScriptedModel(obeys=DEFAULT_INSTRUCTION) as model:
        settings = settings_with(broker, topics, database_url, guard, model.url)
        async with running(settings) as service:
            await caught_up(service, len(records))
            await store.until()

            def sent() -> bool:
                body = service.metrics.exposition("text/plain")[0].decode()
                return (
                    'sentinel_outbox_sent_total{output="findings"} 20.0' in body
                    and 'sentinel_outbox_sent_total{output="dead_letters"} 2.0' in body
                )

            await wait_until(sent, timeout=60)
        assert all(seen.marker for seen in model.seen)
    assert await store.states() == {"safe": 10}
    pairs = await store.rows("SELECT chosen, chosen_generator, rejected_generator FROM preference_pairs")
    assert {tuple(pair.values()) for pair in pairs} == {(SAFE_ANSWER, MODEL, "model-a")}
    assert len(pairs) == 10
    announced = await read_all(broker.bootstrap, topics["findings"])
    documents = [orjson.loads(record.value or b"") for record in of_kind(announced, "finding")]
    stored = {str(row["finding_id"]) for row in await store.rows("SELECT finding_id FROM findings")}
    assert {document["finding_id"] for document in documents} == stored
    for document in documents:
        schema("finding").validate(document)
    for record in of_kind(announced, "evaluation"):
        schema("evaluation").validate(orjson.loads(record.value or b""))
    assert b"TEMPT" not in b"".join(record.value or b"" for record in announced)
    assert len(announced) == 20
    letters = await read_all(broker.bootstrap, topics["dead"])
    assert sorted(record.value or b"" for record in letters) == [b"[1", b"{broken"]
    for record in letters:
        schema("dead-letter-headers").validate({name: (v or b"").decode() for name, v in record.headers})


async def test_an_outage_of_the_served_model_does_not_stop_monitoring(
    broker: Broker, database_url: str, store: Store, free_port: int
) -> None:
    topics = {
        name: await asyncio.to_thread(lambda: broker.create_topic(partitions=2))
        for name in ("in", "findings", "dead")
    }
    await asyncio.to_thread(broker.produce, topics["in"], [unsafe(n) for n in range(20)])
    async with ScriptedGuard() as guard, ScriptedModel(obeys=DEFAULT_INSTRUCTION) as model:
        settings = settings_with(broker, topics, database_url, guard, f"http://127.0.0.1:{free_port}")
        async with running(settings) as service:
            await caught_up(service, 20)
            await asyncio.to_thread(broker.produce, topics["in"], [encoded(n) for n in range(20, 50)])
            await caught_up(service, 50)
            assert await store.states() == {"pending": 20} or await store.all_are("pending", "claimed")
        # Stopped meanwhile, and with the model back: nothing was lost, nobody was called unsafe.
        settings = settings_with(broker, topics, database_url, guard, model.url)
        await store.rows("UPDATE findings SET lease_until = NULL")
        async with running(settings):
            await store.until(timeout=60)
    assert await store.states() == {"safe": 20}
    (row,) = await store.rows("SELECT max(claims) AS most FROM findings")
    assert row["most"] == 1
