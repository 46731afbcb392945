"""Crashes, lost leases and outages: calls may repeat, rows do not, and an outage is nobody's fault."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from uuid import uuid4

import asyncpg
import pytest

from sentinel.embedded.ports import HOST, ReservedPort
from sentinel.embedded.scripted_guard import ERROR_MARK, ScriptedGuard
from sentinel.embedded.scripted_model import BROKEN_MARK, TEMPT_MARK, ScriptedModel
from sentinel.findings import RepromptResult, RepromptState
from sentinel.metrics import BREAKER_CLOSED, BREAKER_OPEN
from sentinel.store import reprompts
from tests.integration.reprompting.conftest import FAST, FINAL, Store, Workers, attempts_counted, running
from tests.support.waiting import wait_until

SHORT = type(FAST)(
    concurrency=4,
    poll_interval=0.02,
    lease=1.0,
    first_backoff=0.05,
    longest_backoff=0.1,
    finding_backoff=0.02,
)


async def claimed(store: Store, *, lease_s: float = 60.0, limit: int = 10) -> reprompts.Claim:
    async with store.connect() as conn:
        return await reprompts.claim(
            conn, lease_id=uuid4(), lease_s=lease_s, max_claims=5, limit=limit, served_models=["shop"]
        )


async def test_a_claim_is_nobody_elses_until_its_lease_runs_out(store: Store) -> None:
    await store.record(*(f"{n}" for n in range(5)))
    first = await claimed(store, limit=3, lease_s=60)
    second = await claimed(store)
    assert (len(first.findings), len(second.findings)) == (3, 2)
    assert not {f.finding_id for f in first.findings} & {f.finding_id for f in second.findings}
    assert (await claimed(store)).findings == ()
    async with store.connect() as conn:
        await conn.execute(
            "UPDATE findings SET lease_until = now() - interval '1 s' WHERE finding_id = ANY($1)",
            [f.finding_id for f in first.findings],
        )
    again = await claimed(store)
    assert {f.finding_id for f in again.findings} == {f.finding_id for f in first.findings}
    assert {f.claims for f in again.findings} == {2}


async def test_concurrent_claims_never_share_a_finding(store: Store) -> None:
    await store.record(*(f"{n}" for n in range(60)))
    claims = await asyncio.gather(*(claimed(store, limit=7) for _ in range(12)))
    taken = [f.finding_id for claim in claims for f in claim.findings]
    assert len(taken) == len(set(taken)) == 60
    assert max(len(claim.findings) for claim in claims) <= 7


async def test_a_lost_lease_stores_nothing(store: Store) -> None:
    await store.record("one")
    (old,) = (await claimed(store, lease_s=0.05)).findings
    await asyncio.sleep(0.1)
    (new,) = (await claimed(store)).findings
    result = RepromptResult(state=RepromptState.UNSAFE)
    async with store.connect() as conn:
        assert not await reprompts.renew(conn, old, 60)
        assert not await reprompts.store(conn, old, result)
        await reprompts.release(conn, [old], delay_s=0, refund=True)
        assert await store.states() == {"claimed": 1}
        assert await reprompts.renew(conn, new, 60)
        assert await reprompts.store(conn, new, result)
        assert not await reprompts.store(conn, new, result)
    assert await store.states() == {"unsafe": 1}


async def test_killed_between_claim_and_store_another_claims_and_one_pair_results(
    store: Store, workers: Workers, model_server: ScriptedModel, guard_server: ScriptedGuard
) -> None:
    await store.record(TEMPT_MARK)
    guard_server.set_faults(latency_low=2.0, latency_high=2.0)  # the answer is there, its judgement is not
    first, _ = workers.make(limits=SHORT, attempt_s=5.0)
    task = asyncio.create_task(first.run(asyncio.Event()))
    await wait_until(lambda: model_server.seen)
    # A kill gives nothing back.
    first._working.popitem()[0].cancel()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await store.states() == {"claimed": 1}
    guard_server.clear_faults()
    second, metrics = workers.make(limits=SHORT, attempt_s=5.0)
    async with running(second):
        await store.until()
    assert len(await store.rows("SELECT * FROM preference_pairs")) == 1
    assert len(await store.rows("SELECT * FROM reprompts")) == 1
    assert attempts_counted(metrics) == {"success": 1.0}
    (row,) = await store.rows("SELECT claims FROM findings")
    assert row["claims"] >= 2  # more where the machine is so slow that a lease runs out meanwhile


async def test_two_workers_on_one_finding_never_both_store(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    """The first worker is slower than its lease: the second one claims too, and one of them stores."""
    await store.record(*(f"{TEMPT_MARK} {n}" for n in range(10)))
    limits = type(FAST)(concurrency=10, poll_interval=0.02, lease=0.15, max_claims=50)
    model_server.set_faults(latency_low=0.0, latency_high=0.4)
    pair = [workers.make(limits=limits, attempt_s=5.0) for _ in "ab"]
    async with running(*(worker for worker, _ in pair)):
        await store.until(timeout=60)
    assert await store.states() == {"safe": 10}
    assert len(await store.rows("SELECT * FROM preference_pairs")) == 10
    assert len(await store.rows("SELECT * FROM reprompts")) == 10
    assert sum(sum(attempts_counted(metrics).values()) for _, metrics in pair) == 10
    assert len(model_server.seen) > 10  # otherwise no lease was lost and this test showed nothing


async def test_stopping_gives_the_findings_back_at_once(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    await store.record(TEMPT_MARK)
    model_server.set_faults(hang_rate=1.0)
    worker, _ = workers.make()
    async with running(worker):
        await wait_until(lambda: model_server.stats.faults > 0)
    (row,) = await store.rows("SELECT reprompt_state, claims, lease_id FROM findings")
    assert (row["reprompt_state"], row["claims"], row["lease_id"]) == ("pending", 0, None)


async def test_a_model_outage_counts_against_no_finding(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    await model_server.stop()
    port = ReservedPort()
    url = f"http://{HOST}:{port.number}"
    await store.record(*(f"{TEMPT_MARK} {n}" for n in range(6)))
    worker, metrics = workers.make(replicas=(url,))
    state = ("sentinel_breaker_state", {"target": "served_model"})
    async with running(worker):
        await asyncio.sleep(1.0)
        assert await store.all_are("pending", "claimed")
        assert max(row["claims"] for row in await store.rows("SELECT claims FROM findings")) <= 1
        await wait_until(lambda: metrics.registry.get_sample_value(*state) == BREAKER_OPEN)
        await model_server.start(HOST, port.number)
        await store.until(timeout=60)
    assert await store.states() == {"safe": 6}
    assert attempts_counted(metrics) == {"success": 6.0}
    assert metrics.registry.get_sample_value(*state) == BREAKER_CLOSED


async def test_a_guard_outage_counts_against_no_finding(
    store: Store, workers: Workers, guard_server: ScriptedGuard
) -> None:
    guard_server.set_faults(error_rate=1.0)
    await store.record(*(f"{TEMPT_MARK} {n}" for n in range(4)))
    worker, metrics = workers.make()
    async with running(worker):
        await asyncio.sleep(1.0)
        assert await store.all_are("pending", "claimed")
        assert await store.rows("SELECT * FROM reprompts") == []
        guard_server.clear_faults()
        await store.until(timeout=60)
    assert await store.states() == {"safe": 4}
    assert attempts_counted(metrics) == {"success": 4.0}


async def test_a_finding_that_breaks_the_server_is_given_up_and_holds_nobody_up(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    (broken,) = await store.record(BROKEN_MARK)
    others = await store.record(*(f"{TEMPT_MARK} {n}" for n in range(5)))
    worker, _ = workers.make()
    async with running(worker):
        await store.until(timeout=60)
    states = {
        row["finding_id"]: row["reprompt_state"]
        for row in await store.rows("SELECT finding_id, reprompt_state FROM findings")
    }
    assert states == {broken: "failed"} | dict.fromkeys(others, "safe")
    (row,) = await store.rows("SELECT claims FROM findings WHERE finding_id = $1", broken)
    assert row["claims"] == 5
    assert await store.rows("SELECT * FROM reprompts WHERE finding_id = $1", broken) == []


async def test_an_answer_that_the_guard_cannot_judge_is_not_safe(
    store: Store, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel.embedded.scripted_model.SAFE_ANSWER", f"Well. {ERROR_MARK}")
    await store.record("tell me")
    worker, _ = workers.make(attempts=1)
    async with running(worker):
        await store.until(timeout=60)
    assert await store.states() == {"failed": 1}
    (row,) = await store.rows("SELECT unsafe, error FROM reprompts")
    assert (row["unsafe"], row["error"]) == (None, "guard_error")


async def test_the_loaded_adapter_is_asked_and_recorded(
    store: Store, workers: Workers, model_server: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_server, "models", lambda: {"base": None, "shop-a1": "base"})
    await store.record(TEMPT_MARK, served_by="shop-a1")
    worker, _ = workers.make()
    async with running(worker):
        await store.until()
    (pair,) = await store.rows("SELECT chosen_generator, rejected_generator FROM preference_pairs")
    assert set(pair.values()) == {"shop-a1"}
    assert [seen.body["model"] for seen in model_server.seen] == ["shop-a1"]


async def test_one_replica_away_another_answers(
    store: Store, workers: Workers, model_server: ScriptedModel, free_port: int
) -> None:
    await store.record(*(f"{TEMPT_MARK} {n}" for n in range(8)))
    worker, _ = workers.make(replicas=(f"http://127.0.0.1:{free_port}", model_server.url))
    async with running(worker):
        await store.until()
    assert await store.states() == {"safe": 8}
    assert {row["claims"] for row in await store.rows("SELECT claims FROM findings")} == {1}


async def test_a_wake_is_faster_than_the_poll(store: Store, workers: Workers) -> None:
    limits = type(FAST)(poll_interval=30.0)
    worker, _ = workers.make(limits=limits)
    async with running(worker):
        await asyncio.sleep(0.2)
        await store.record(TEMPT_MARK)
        worker.wake()
        await store.until(timeout=60)


async def test_killed_again_and_again_every_finding_ends_once(
    store: Store, workers: Workers, model_server: ScriptedModel
) -> None:
    rng = random.Random(7)
    model_server.set_faults(latency_low=0.0, latency_high=0.05)
    await store.record(*(f"{TEMPT_MARK} {n}" for n in range(40)))
    limits = type(FAST)(concurrency=8, poll_interval=0.01, lease=0.25, max_claims=1000)
    kills = 0
    while not await store.all_are(*FINAL):
        worker, _ = workers.make(limits=limits, attempt_s=1.0)
        task = asyncio.create_task(worker.run(asyncio.Event()))
        calls = len(model_server.seen) + rng.randint(1, 12)
        for _ in range(2_000):  # killed at some call, however slow the machine is
            if len(model_server.seen) >= calls or await store.all_are(*FINAL):
                break
            await asyncio.sleep(rng.uniform(0.0, 0.02))
        for work in list(worker._working):
            work.cancel()
        worker._working.clear()  # nothing is given back
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        kills += 1
        assert kills < 400
    assert await store.states() == {"safe": 40}
    pairs = await store.rows("SELECT finding_id FROM preference_pairs")
    assert len({row["finding_id"] for row in pairs}) == len(pairs) == 40
    assert len(await store.rows("SELECT * FROM reprompts")) == 40
    assert kills > 1
    print(f"kills={kills} findings=40 pairs={len(pairs)} calls={len(model_server.seen)}")


async def test_the_database_away_is_waited_for(store: Store, workers: Workers) -> None:
    await store.record(TEMPT_MARK)
    failures = iter(range(5))

    def connect() -> object:
        if next(failures, None) is not None:
            raise asyncpg.CannotConnectNowError("starting up")
        return store.connect()

    worker, _ = workers.make(connect=connect)  # type: ignore[arg-type]
    async with running(worker):
        await store.until()
    assert await store.states() == {"safe": 1}
