"""Promotions and rollbacks are followed within a second, and no stream notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from producers.route.headers import ADAPTER_HEADER
from producers.route.replicas import Watch
from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.embedded.scripted_model import MODEL, SAFE_ANSWER, ScriptedModel
from sentinel.store.engine import libpq_url
from tests.integration.route.conftest import ADAPTER, OTHER, PUBLIC, SERVED, Make, Stage
from tests.support.promotions import promote
from tests.support.waiting import wait_until


async def answered_by(stage: Stage) -> str:
    return (await stage.chat()).headers[ADAPTER_HEADER]


async def until(stage: Stage, adapter: str) -> float:
    """Seconds until the route answers with ``adapter``."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while await answered_by(stage) != adapter:
        assert loop.time() - began < 60, f"still not {adapter}"
        await asyncio.sleep(0.02)
    return loop.time() - began


async def test_promotion_and_rollback_within_a_second_at_the_default_interval(make: Make) -> None:
    stage = await make(**{"route.follow_interval_s": "0.5"})
    assert await answered_by(stage) == "base"
    # The best of ten rounds: on a machine with other work the question itself may take long. (A route that looked
    # less often would be late in each of them: every round begins just after a look.)
    for _ in range(10):
        seconds = {}
        for adapter in (ADAPTER, OTHER):
            await promote(stage.database_url, SERVED, adapter)
            seconds[adapter] = await until(stage, adapter)
        await promote(stage.database_url, SERVED, ADAPTER, action="rollback")
        seconds["back"] = await until(stage, ADAPTER)
        await promote(stage.database_url, SERVED, None, action="rollback")
        seconds["base"] = await until(stage, "base")
        print(f"followed after {seconds}")
        if max(seconds.values()) < 1.0:
            return
    pytest.fail(f"a promotion was followed after {max(seconds.values()):.1f} s")


async def test_streams_live_through_promotions(make: Make) -> None:
    stage = await make(replicas=2)
    await stage.promote(ADAPTER)
    for replica in stage.replicas:
        replica.pace = 0.05

    async def stream() -> tuple[str, str]:
        body = {"model": PUBLIC, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with stage.client.post(f"{stage.url}/v1/chat/completions", json=body) as reply:
            lines = (await reply.read()).split(b"\n\n")
        assert lines[-2] == b"data: [DONE]"
        events = [json.loads(line[6:]) for line in lines[:-2]]
        assert {event["model"] for event in events} == {PUBLIC}
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        return text, reply.headers[ADAPTER_HEADER]

    waves = []
    for number in range(12):
        waves += [asyncio.create_task(stream()) for _ in range(5)]
        # Followed, so that the next wave meets it, and the ones before live through it.
        await stage.promote((ADAPTER, OTHER, None)[number % 3])
        await asyncio.sleep(0.1)
    results = await asyncio.gather(*waves)
    assert {text for text, _ in results} == {SAFE_ANSWER}
    assert {adapter for _, adapter in results} == {ADAPTER, OTHER, "base"}
    assert stage.metric("sentinel_route_requests_total", served_model=SERVED, outcome="ok") == len(waves)


async def test_a_lower_generation_is_ignored(make: Make) -> None:
    stage = await make()
    await stage.promote(OTHER)
    await stage.promote(ADAPTER)
    connection = await asyncpg.connect(libpq_url(stage.database_url))
    try:
        # What a lagging replica of the database shows; nothing else takes a row out of the history.
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("DELETE FROM promotions WHERE generation = 2")
    finally:
        await connection.close()
    await asyncio.sleep(0.4)
    assert await answered_by(stage) == ADAPTER


async def test_the_last_mapping_outlives_the_database_and_the_process(
    make: Make, stack: AsyncExitStack, private_postgres: EmbeddedPostgres
) -> None:
    url = private_postgres.url
    replica = await stack.enter_async_context(ScriptedModel(obeys="safe"))
    replica.adapters, replica.strict = (ADAPTER, OTHER), True
    first = await make([replica], url=url)
    await first.promote(ADAPTER)
    # This server does not wait for the disk: without a checkpoint the kill would take the row with it.
    connection = await asyncpg.connect(libpq_url(url))
    await connection.execute("CHECKPOINT")
    await connection.close()
    await asyncio.to_thread(private_postgres.kill)
    await asyncio.sleep(0.5)
    assert await answered_by(first) == ADAPTER

    second = await make([replica], url=url, **{"database.connect_timeout_s": "1"})
    assert await answered_by(second) == ADAPTER
    await asyncio.to_thread(private_postgres.restart)
    await promote(url, SERVED, OTHER)
    for stage in (first, second):
        await until(stage, OTHER)


@pytest.mark.parametrize(("on_missing", "status"), [("base", 200), ("error", 503)])
async def test_nobody_knows_what_is_promoted(
    make: Make, database_url: str, on_missing: str, status: int, tmp_path: Path
) -> None:
    nowhere = "postgresql+asyncpg://nobody@127.0.0.1:1/none"
    stage = await make(url=nowhere, **{"route.on_missing": on_missing})
    reply = await stage.chat()
    assert reply.status == status
    assert stage.metric("sentinel_route_adapter_missing_total", served_model=SERVED, action=on_missing) == 1
    async with stage.client.get(f"http://127.0.0.1:{stage.service.status.port}/readyz") as ready:
        assert ready.status == 503
        assert (await ready.json())["problems"] == ["promotions were never read"]


async def test_another_replica_is_tried_where_the_adapter_is_missing(make: Make) -> None:
    stage = await make(replicas=2, **{"route.replica_check_s": "60"})
    stage.replicas[0].adapters = ()
    await stage.promote(ADAPTER)
    replies = [await stage.chat() for _ in range(8)]
    assert {(reply.status, reply.headers[ADAPTER_HEADER]) for reply in replies} == {(200, ADAPTER)}
    assert len(stage.replicas[1].seen) == 8
    assert len(stage.replicas[0].seen) <= 1


class Lister(ScriptedModel):
    """Counts how often it was asked for its list."""

    def __init__(self) -> None:
        super().__init__(obeys="safe")
        self.strict = True
        self.adapters = (ADAPTER,)
        self.lists = 0

    def models(self) -> Mapping[str, str | None]:
        self.lists += 1
        return super().models()


async def test_a_list_that_is_out_of_date_costs_one_detour(
    make: Make, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody looks again when something was promoted.
    monkeypatch.setattr(Watch, "look_now", lambda _: None)
    replicas = [await stack.enter_async_context(Lister()) for _ in range(2)]
    stage = await make(replicas, **{"route.replica_check_s": "600"})
    # At its start it looks, and its task looks once more.
    await wait_until(lambda: all(replica.lists >= 2 for replica in replicas))
    await stage.promote(ADAPTER)
    stage.replicas[0].adapters = ()  # restarted
    replies = [await stage.chat() for _ in range(8)]
    assert {(reply.status, reply.headers[ADAPTER_HEADER]) for reply in replies} == {(200, ADAPTER)}
    assert len(stage.replicas[0].seen) == 1
    assert stage.metric("sentinel_route_adapter_missing_total", served_model=SERVED, action="retried") == 1


async def test_the_base_answers_where_the_adapter_is_nowhere(make: Make) -> None:
    stage = await make(replicas=2)
    for replica in stage.replicas:
        replica.adapters = ()
    await stage.promote(ADAPTER)
    reply = await stage.chat()
    assert (reply.status, reply.headers[ADAPTER_HEADER]) == (200, "base")
    assert (await reply.json())["model"] == PUBLIC
    assert stage.metric("sentinel_route_adapter_missing_total", served_model=SERVED, action="base") == 1
    stage.replicas[1].adapters = (ADAPTER,)
    await until(stage, ADAPTER)


async def test_an_error_where_the_adapter_is_nowhere(make: Make) -> None:
    stage = await make(replicas=2, **{"route.on_missing": "error"})
    for replica in stage.replicas:
        replica.adapters = ()
    await stage.promote(ADAPTER)
    reply = await stage.chat()
    assert reply.status == 503
    assert (await reply.json())["error"]["code"] == "adapter_missing"
    assert stage.metric("sentinel_route_adapter_missing_total", served_model=SERVED, action="error") == 1
    assert stage.metric("sentinel_route_requests_total", served_model=SERVED, outcome="adapter_missing") == 1


async def test_a_replica_that_is_down_is_passed_over_until_it_is_back(
    make: Make, stack: AsyncExitStack
) -> None:
    port = stack.enter_context(ReservedPort()).number
    first = ScriptedModel(obeys="safe")
    await first.start(port=port)
    stack.push_async_callback(first.stop)
    other = await stack.enter_async_context(ScriptedModel(obeys="safe"))
    stage = await make([first, other])
    await first.stop()
    assert [(await stage.chat()).status for _ in range(6)] == [200] * 6
    assert len(stage.replicas[1].seen) == 6
    await stage.replicas[0].start(port=port)
    stage.replicas[0].seen.clear()
    async with asyncio.timeout(60):
        while not stage.replicas[0].seen:
            assert (await stage.chat()).status == 200
    assert stage.replicas[0].seen[0].body["model"] == MODEL


async def test_replicas_share_the_load_and_an_idle_one_comes_first(make: Make) -> None:
    stage = await make(replicas=2)
    for _ in range(10):
        await stage.chat()
    assert [len(replica.seen) for replica in stage.replicas] == [5, 5]
    slow, quick = stage.replicas
    slow.pace = 30.0
    # One for each; that of the slow one is still under way when the other's has long ended.
    calls = [asyncio.create_task(stage.chat(stream=True)) for _ in range(2)]
    await wait_until(lambda: [one.in_flight for one in stage.service.pools[0].replicas] == [1, 0])
    before = len(quick.seen)
    for _ in range(6):
        await stage.chat()
    assert len(quick.seen) == before + 6
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_each_served_model_has_its_own_replicas_and_promotions(
    make: Make, stack: AsyncExitStack
) -> None:
    other = await stack.enter_async_context(ScriptedModel(obeys="safe"))
    other.adapters, other.strict = (OTHER,), True
    first = await stack.enter_async_context(ScriptedModel(obeys="safe"))
    first.adapters, first.strict = (ADAPTER,), True
    models = {
        SERVED: {"public_name": PUBLIC, "base": MODEL, "replicas": [first.url]},
        "second": {"public_name": "writer", "base": "no-such-base", "replicas": [other.url]},
    }
    stage = await make([first, other], served_models=json.dumps(models))
    await stage.promote(ADAPTER)
    await promote(stage.database_url, "second", OTHER)
    await until(stage, ADAPTER)
    await wait_until(lambda: stage.service.promotions.adapter("second") == OTHER)
    reply = await stage.chat(model="writer")
    assert (reply.headers[ADAPTER_HEADER], (await reply.json())["model"]) == (OTHER, "writer")
    assert [seen.body["model"] for seen in other.seen] == [OTHER]
    async with stage.client.get(f"{stage.url}/v1/models") as listed:
        assert [card["id"] for card in (await listed.json())["data"]] == [PUBLIC, "writer"]


async def test_all_replicas_down_is_a_502_in_openais_shape(make: Make) -> None:
    stage = await make(replicas=2)
    for replica in stage.replicas:
        await replica.stop()
    reply = await stage.chat()
    assert reply.status == 502
    assert (await reply.json())["error"]["code"] == "upstream_unavailable"


async def test_a_request_that_may_have_been_seen_is_not_sent_again(make: Make) -> None:
    stage = await make(replicas=2)
    for replica in stage.replicas:
        replica.set_faults(reset_rate=1.0)
    reply = await stage.chat()
    assert reply.status == 502
    assert sum(replica.stats.faults for replica in stage.replicas) == 1


async def test_an_answer_that_takes_too_long_is_a_504(make: Make) -> None:
    stage = await make(**{"route.total_timeout_s": "0.3"})
    stage.replicas[0].set_faults(hang_rate=1.0)
    reply = await stage.chat()
    assert reply.status == 504


async def test_the_served_name_of_the_base_is_looked_up(make: Make) -> None:
    stage = await make(
        served_models=json.dumps(
            {SERVED: {"public_name": PUBLIC, "base": "org/weights", "replicas": ["http://127.0.0.1:1"]}}
        )
    )
    pool = stage.service.pools[0]
    pool.replicas[0].url = stage.replicas[0].url
    await wait_until(lambda: pool.replicas[0].up and pool.replicas[0].base == MODEL)
    assert (await stage.chat()).status == 200
    assert stage.replicas[0].seen[0].body["model"] == MODEL
