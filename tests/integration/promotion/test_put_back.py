"""What a rollback puts back is watched again where it had not been proven, and keeps its own way back until it is."""

from __future__ import annotations

from uuid import uuid4

from prometheus_client import CollectorRegistry

from daemon.watch import PromotionWatch, WatchLimits
from sentinel.clock import SystemClock
from sentinel.jobs import JobKind, JobPayload
from sentinel.metrics import Metrics
from sentinel.serving_desired import desired_state
from sentinel.settings import Settings
from sentinel.store.connections import Connect
from tests.integration.promotion.stage import MODEL, Stage, Traffic, jobs
from trainer.promote import promote
from trainer.rollback import rollback, run_rollback


def watch_of(connect: Connect) -> PromotionWatch:
    metrics = Metrics(CollectorRegistry(), served_models=[MODEL])
    return PromotionWatch(connect, WatchLimits(), metrics=metrics, clock=SystemClock())


async def watches(stage: Stage, adapter: str) -> list[tuple[str, float, float, int]]:
    return await stage.fetch(
        "SELECT state, limit_rate, alpha, responses FROM promotion_watches WHERE adapter = $1 ORDER BY started_at",
        adapter,
    )


async def in_service(stage: Stage) -> str | None:
    history = await stage.history()
    return history[-1][2]


async def test_an_unproven_one_is_watched_again_by_the_same_limit_and_can_go_too(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    await traffic.answer(None, 300, 15)
    run_id = uuid4()
    await stage.adapter("a", run_id=run_id)
    await promote(connect, settings, MODEL, "a", actor="test")
    await traffic.answer("a", 150, 100)
    await stage.adapter("b", incumbent="a")
    await promote(connect, settings, MODEL, "b", actor="test")
    await rollback(connect, settings, MODEL, actor="test", reason="worse")
    assert await in_service(stage) == "a"
    (before, again) = await watches(stage, "a")
    assert (before[0], again[0]) == ("ended", "watching")
    assert before[1:3] == again[1:3]

    # Counted from its return: what was answered before does not add up with what comes now.
    watch = watch_of(connect)
    await traffic.answer("a", 199, 100)
    await watch.look()
    assert await jobs(stage) == []
    assert (await watches(stage, "a"))[1][3] == 199
    await traffic.answer("a", 1, 0)
    await watch.look()
    assert await jobs(stage) == [JobPayload(kind=JobKind.ROLLBACK, run_id=run_id, served_model=MODEL)]
    assert [state for state, *_ in await watches(stage, "a")] == ["ended", "alarmed"]
    await run_rollback(settings, (await jobs(stage))[0])
    assert await in_service(stage) is None


async def test_a_proven_one_stays_proven(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await traffic.answer("a", 2000, 0)
    await watch_of(connect).look()
    await stage.adapter("b", incumbent="a")
    await promote(connect, settings, MODEL, "b", actor="test")
    await rollback(connect, settings, MODEL, actor="test", reason="worse")
    assert await in_service(stage) == "a"
    assert [state for state, *_ in await watches(stage, "a")] == ["proven"]


async def test_its_own_predecessor_stays_loaded_until_it_is_proven(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    incumbent: str | None = None
    for name in ("a", "b", "c"):
        await stage.adapter(name, incumbent=incumbent)
        await promote(connect, settings, MODEL, name, actor="test")
        incumbent = name
    assert await wanted(connect) == {"b", "c"}
    await rollback(connect, settings, MODEL, actor="test", reason="worse")
    assert await wanted(connect) == {"a", "b"}
    await traffic.answer("b", 2000, 0)
    await watch_of(connect).look()
    assert await wanted(connect) == {"b"}
    await rollback(connect, settings, MODEL, actor="test", reason="worse")
    assert await wanted(connect) == {"a"}


async def wanted(connect: Connect) -> set[str]:
    async with connect() as conn:
        desired = await desired_state(conn, MODEL)
    assert not {one.name for one in desired.adapters} & desired.retired
    return {one.name for one in desired.adapters}
