"""Calls become events that our own decoder reads, and a broker that is away is nobody's problem."""

from __future__ import annotations

import asyncio
import io
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer

from consumers.formats import decode
from producers.route.events import SOURCE, Call
from producers.route.headers import ADAPTER_HEADER
from sentinel.embedded import scripted_model as marks
from sentinel.errors import ConfigurationError
from sentinel.events import OWN_TRAFFIC_HEADER, PromptEvent, RawRecord
from tests.integration.route.conftest import ADAPTER, PUBLIC, Make, Stage
from tests.support.brokers import Broker, Embedded
from tests.support.kafka_client import KafkaClient
from tests.support.kafka_server import KafkaServer, free_port
from tests.support.waiting import wait_until


def publishing(bootstrap: str, topic: str, **more: str) -> dict[str, str]:
    return {
        "route.publish": "true",
        "kafka.bootstrap_servers": bootstrap,
        "kafka.topics": topic,
        "kafka.request_timeout_ms": "2000",
        **more,
    }


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """A topic until it has ``count`` different values, and a moment longer for what should not be there."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    values: list[bytes] = []
    try:
        async with asyncio.timeout(60):
            while len(set(values)) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    values += [record.value for record in records]
        for records in (await consumer.getmany(timeout_ms=500)).values():
            values += [record.value for record in records]
    finally:
        await consumer.stop()
    return values


def decoded(values: list[bytes]) -> list[PromptEvent]:
    """As the daemon reads them, ordered by answer and choice."""
    events = []
    for number, value in enumerate(values):
        (item,) = decode(RawRecord("t", 0, number, 0, None, value))
        assert isinstance(item, PromptEvent)
        assert item.source == SOURCE
        events.append(item)
    return sorted(events, key=lambda event: (event.last_user_text, event.choice))


async def stream(stage: Stage, text: str, **more: Any) -> bytes:
    reply = await stage.chat(text, stream=True, **more)
    return await reply.read()


async def test_calls_become_events(make: Make, broker: Broker) -> None:
    topic = broker.create_topic(partitions=1)
    # Long: what the broker took and did not acknowledge in time would be there twice.
    stage = await make(**publishing(broker.bootstrap, topic, **{"kafka.request_timeout_ms": "40000"}))
    await stage.chat("1 base", user="somebody")
    await stage.promote(ADAPTER)
    await stage.chat("2 two choices", n=2)
    await stream(stage, "3 stream", stream_options={"include_usage": True})
    await stage.chat(f"4 {marks.TOOL_MARK}")
    await stream(stage, f"5 {marks.TOOL_MARK}", n=2)
    async with stage.client.post(
        f"{stage.url}/v1/completions", json={"model": PUBLIC, "prompt": "6 completion"}
    ) as reply:
        await reply.read()
    async with stage.client.post(
        f"{stage.url}/v1/completions", json={"model": PUBLIC, "prompt": "7 stream", "stream": True}
    ) as reply:
        await reply.read()
    await stage.chat(marks.BROKEN_MARK)
    await stage.chat(model="nobody")
    body = {"model": PUBLIC, "messages": [{"role": "user", "content": "ours"}]}
    async with stage.client.post(
        f"{stage.url}/v1/chat/completions", json=body, headers={OWN_TRAFFIC_HEADER: "reprompt"}
    ) as reply:
        await reply.read()
    events = decoded(await read(broker.bootstrap, topic, 9))
    assert [(event.last_user_text[0], event.choice) for event in events] == [
        ("1", 0), ("2", 0), ("2", 1), ("3", 0), ("4", 0), ("5", 0), ("5", 1), ("6", 0), ("7", 0),
    ]  # fmt: skip
    assert {event.model for event in events} == {PUBLIC}
    assert [event.served_by for event in events] == [marks.MODEL] + [ADAPTER] * 8
    assert all(event.response_id and event.identified and event.event_time for event in events)
    assert len({event.event_id for event in events}) == 9
    first, plain, tool = events[0], events[3], events[4]
    assert first.user_ref is not None
    assert "somebody" not in first.user_ref
    for event in events:
        if event.last_user_text[0] in "45":
            assert event.finish_reason == "tool_calls"
            assert json.loads(event.response_extra.removeprefix("look_up ")) == {"place": "Rome"}
        else:
            assert (event.response, event.finish_reason) == (marks.SAFE_ANSWER, "stop")
    assert (plain.input_tokens, plain.output_tokens) == (1, 1)
    assert (tool.input_tokens, tool.output_tokens) == (1, 1)
    assert stage.metric("sentinel_route_events_total", outcome="own_traffic") == 1
    assert (
        stage.metric("sentinel_route_events_total", outcome="published")
        + stage.metric("sentinel_route_events_total", outcome="spooled")
        >= 9
    )


async def test_what_an_application_saw_of_a_stream_is_reported(make: Make, embedded_broker: Embedded) -> None:
    topic = embedded_broker.create_topic(partitions=1)
    stage = await make(**publishing(embedded_broker.bootstrap, topic))
    stage.replicas[0].pace = 0.1
    body = {"model": PUBLIC, "messages": [{"role": "user", "content": "left"}], "stream": True}
    reply = await stage.client.post(f"{stage.url}/v1/chat/completions", json=body)
    seen = b""
    async for chunk in reply.content.iter_any():
        seen += chunk
        if b'" is"' in seen:
            reply.close()
            break
    (event,) = decoded(await read(embedded_broker.bootstrap, topic, 1))
    assert event.response.startswith("Here is")
    assert len(event.response) < len(marks.SAFE_ANSWER)
    assert event.finish_reason is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_is_reported_after_its_last_byte(
    make: Make, embedded_broker: Embedded, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    topic = embedded_broker.create_topic(partitions=1)
    stage = await make(**publishing(embedded_broker.bootstrap, topic))
    publisher = stage.service.publisher
    assert publisher is not None
    order: list[str] = []
    write_eof, offer = web.StreamResponse.write_eof, publisher.offer

    async def written(response: web.StreamResponse, data: bytes = b"") -> None:
        await write_eof(response, data)
        # The scripted replica answers in this process too.
        if ADAPTER_HEADER in response.headers:
            order.append("answered")

    def offered(call: Call) -> None:
        order.append("reported")
        offer(call)

    monkeypatch.setattr(web.StreamResponse, "write_eof", written)
    monkeypatch.setattr(publisher, "offer", offered)
    assert (await stage.chat(stream=streamed)).status == 200
    await wait_until(lambda: len(order) >= 2)
    # The server ends a response that was ended already once more.
    assert order[:2] == ["answered", "reported"]


async def test_without_a_broker_no_answer_waits(make: Make) -> None:
    """No broker at all, from the start."""
    nowhere = f"127.0.0.1:{free_port()}"
    stage = await make(**publishing(nowhere, "t"))
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(50):
        began = loop.time()
        assert (await stage.chat()).status == 200
        times.append(loop.time() - began)
    # Less than any wait for Kafka, which takes seconds; one of the calls may meet other work of the machine.
    assert sorted(times)[-2] < 2.5
    assert statistics.median(times) < 1.0
    await wait_until(lambda: stage.metric("sentinel_route_events_total", outcome="spooled") >= 50, 60)
    assert stage.metric("sentinel_route_spool_bytes") > 0


async def test_an_outage_loses_nothing(make: Make, kafka_factory: Callable[..., KafkaServer]) -> None:
    server = await asyncio.to_thread(kafka_factory)
    await asyncio.to_thread(KafkaClient(server.bootstrap).create_topic, "outage", partitions=2)
    stage = await make(**publishing(server.bootstrap, "outage"))
    await stage.chat("before")
    await read(server.bootstrap, "outage", 1)
    await asyncio.to_thread(server.kill)
    times = []
    for number in range(30):
        began = asyncio.get_running_loop().time()
        assert (await stage.chat(f"during {number}")).status == 200
        times.append(asyncio.get_running_loop().time() - began)
    # A request that waited for Kafka would have waited for its time-out, 3 s.
    assert sorted(times)[-2] < 2.5
    assert statistics.median(times) < 1.0
    await wait_until(lambda: stage.metric("sentinel_route_events_total", outcome="spooled") >= 30, 60)
    await asyncio.to_thread(server.start)
    await stage.chat("after")
    texts = {event.last_user_text for event in decoded(await read(server.bootstrap, "outage", 32))}
    assert texts == {"before", "after", *(f"during {number}" for number in range(30))}
    await wait_until(lambda: not stage.metric("sentinel_route_spool_bytes"), 60)


async def test_a_restart_finds_the_spool(make: Make, embedded_broker: Embedded) -> None:
    topic = embedded_broker.create_topic(partitions=1)
    first = await make(**publishing(f"127.0.0.1:{free_port()}", topic))
    for number in range(5):
        await first.chat(f"spooled {number}")
    with pytest.raises(ConfigurationError, match="another process"):
        await make(**publishing(embedded_broker.bootstrap, topic))
    await first.end()
    assert first.metric("sentinel_route_events_total", outcome="spooled") == 5
    second = await make(**publishing(embedded_broker.bootstrap, topic))
    events = decoded(await read(embedded_broker.bootstrap, topic, 5))
    assert [event.last_user_text for event in events] == [f"spooled {number}" for number in range(5)]
    assert second.metric("sentinel_route_events_total", outcome="dropped_spool") == 0


async def test_a_full_spool_drops_and_counts(make: Make) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    stage = await make(**publishing(nowhere, "t", **{"route.spool_max_bytes": "3000"}))
    for _ in range(30):
        assert (await stage.chat()).status == 200
    name = "sentinel_route_events_total"
    await wait_until(
        lambda: stage.metric(name, outcome="spooled") + stage.metric(name, outcome="dropped_spool") >= 30, 60
    )
    assert stage.metric(name, outcome="dropped_spool") > 10
    assert 0 < stage.metric("sentinel_route_spool_bytes") <= 3000


class Lax(marks.ScriptedModel):
    """Says something of its own, and takes an ``n`` that is no number."""

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        status, whole = super().answer(path, body.replace(b'"n":', b'"ignored":'), headers)
        return status, whole.replace(marks.SAFE_ANSWER.encode(), b"ANSWER-OF-SOMEBODY")


def actions(written: io.StringIO) -> set[str]:
    """What the publisher itself logged."""
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    return {line["action"] for line in lines if line["logger"] == "producers.route.publish"}


async def test_what_cannot_be_reported_is_not_logged_instead(
    make: Make, embedded_broker: Embedded, written: io.StringIO, tmp_path: Path
) -> None:
    """Unreadable, sent to a broker that went away, to a disk that fails, to the spool, and past a full one."""
    topic = embedded_broker.create_topic(partitions=1)
    bearer = {"Authorization": "Bearer KEY-OF-SOMEBODY"}
    async with Lax(obeys="safe") as replica:
        settings = publishing(embedded_broker.bootstrap, topic, **{"route.spool_max_bytes": "3000"})
        stage: Stage = await make([replica], **settings)

        async def ask(path: str = "chat/completions", **more: Any) -> None:
            body = {"model": PUBLIC, "user": "NAME-OF-SOMEBODY", **more}
            body.setdefault("messages", [{"role": "user", "content": "WORDS-OF-SOMEBODY"}])
            async with stage.client.post(f"{stage.url}/v1/{path}", json=body, headers=bearer) as reply:
                assert reply.status == 200
                assert b"ANSWER-OF-SOMEBODY" in await reply.read()

        def counted(outcome: str) -> float:
            return stage.metric("sentinel_route_events_total", outcome=outcome)

        await ask()
        # The first may take the way over the disk, where the connection is not there yet.
        await wait_until(lambda: counted("published") and not stage.metric("sentinel_route_spool_bytes"), 60)
        # Python's message about such a number quotes it.
        await ask("completions", prompt="WORDS-OF-SOMEBODY", n="WORDS-OF-SOMEBODY")
        await wait_until(lambda: counted("dropped_unreadable") == 1, 60)
        embedded_broker.server.stop()
        spool, aside = tmp_path / "route" / "spool", tmp_path / "aside"
        spool.rename(aside)
        await ask()
        await wait_until(lambda: counted("dropped_spool") == 1, 60)
        aside.rename(spool)
        before = counted("spooled")
        for _ in range(30):
            await ask()
        await wait_until(lambda: counted("spooled") - before + counted("dropped_spool") >= 31, 60)
        assert counted("spooled") > before
        assert counted("dropped_spool") > 1
        await wait_until(lambda: "publish_away" in actions(written), 60)
        await stage.end()
    waiting = b"".join(path.read_bytes() for path in spool.glob("*.jsonl"))
    assert b"WORDS-OF-SOMEBODY" in waiting
    assert b"ANSWER-OF-SOMEBODY" in waiting
    assert {seen.authorization for seen in replica.seen} == {bearer["Authorization"]}
    assert actions(written) >= {"event_unreadable", "publish_wait", "spool_failed", "publish_away"}
    assert "OF-SOMEBODY" not in written.getvalue()
