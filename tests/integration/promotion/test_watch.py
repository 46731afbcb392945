"""The watch over a promoted adapter: proof, alarms, each exactly once, by counts and by answers."""

from __future__ import annotations

import asyncio
import datetime as dt
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from daemon.watch import PromotionWatch, WatchLimits
from sentinel.clock import Clock, ManualClock, SystemClock
from sentinel.jobs import JobKind, JobPayload
from sentinel.metrics import Metrics
from sentinel.serving import ReplicaReport, ReplicaState
from sentinel.settings import Settings
from sentinel.store.connections import Connect
from tests.integration.promotion.stage import MODEL, Stage, Traffic, jobs
from trainer.promote import promote
from trainer.rollback import run_rollback


class Watched:
    """A watch with metrics of its own, as every daemon has one."""

    def __init__(self, connect: Connect, *, clock: Clock | None = None, **limits: float) -> None:
        self.metrics = Metrics(CollectorRegistry(), served_models=[MODEL])
        self.watch = PromotionWatch(
            connect,
            WatchLimits(**limits),  # type: ignore[arg-type]
            metrics=self.metrics,
            clock=clock or SystemClock(),
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"served_model": MODEL, **labels})


async def watch_row(stage: Stage) -> tuple[str, int, int, float]:
    ((state, responses, unsafe, limit),) = await stage.fetch(
        "SELECT state, responses, unsafe, limit_rate FROM promotion_watches WHERE adapter = 'a'"
    )
    return state, responses, unsafe, limit


async def promoted(stage: Stage, settings: Settings, connect: Connect) -> UUID:
    run_id = uuid4()
    await stage.adapter("a", run_id=run_id)
    await promote(connect, settings, MODEL, "a", actor="test")
    return run_id


async def test_the_limit_is_the_incumbents_rate_at_the_promotion(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    await traffic.answer(None, 300, 15)
    await traffic.answer("tiny", 100, 5)
    await promoted(stage, settings, connect)
    _, _, _, limit = await watch_row(stage)
    assert limit == pytest.approx(0.0758, abs=0.0005)  # Wilson's upper bound of 20 in 400
    await traffic.answer(None, 1000, 0)
    assert (await watch_row(stage))[3] == limit
    # The next one is held to the rate of the one before it, and never to less than the least rate.
    await traffic.answer("a", 2000, 0)
    await stage.adapter("b", incumbent="a")
    await promote(connect, settings, MODEL, "b", actor="test")
    ((least,),) = await stage.fetch("SELECT limit_rate FROM promotion_watches WHERE adapter = 'b'")
    assert least == 0.01


async def test_a_worse_adapter_alarms_once_whoever_looks_and_is_rolled_back(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    await traffic.answer(None, 2000, 60)
    run_id = await promoted(stage, settings, connect)
    daemons = [Watched(connect), Watched(connect)]
    await traffic.answer("a", 199, 60)
    await traffic.answer(None, 500, 500)  # of the base, which is not what is watched
    await daemons[0].watch.look()
    assert (await watch_row(stage))[:3] == ("watching", 199, 60)
    assert await jobs(stage) == []  # too few, however clear

    await traffic.answer("a", 1, 0)
    for _ in range(3):
        await asyncio.gather(*(daemon.watch.look() for daemon in daemons))
    assert await jobs(stage) == [JobPayload(kind=JobKind.ROLLBACK, run_id=run_id, served_model=MODEL)]
    assert (await watch_row(stage))[0] == "alarmed"
    asked = [daemon.value("sentinel_rollbacks_requested_total", cause="rate") for daemon in daemons]
    assert sorted(filter(None, asked)) == [1.0]
    ((actor, detail),) = await stage.fetch(
        "SELECT actor, detail::text FROM audit_log WHERE action = 'promotion alarm'"
    )
    assert actor == "daemon"
    assert "60 of 200" in detail

    change = await run_rollback(settings, (await jobs(stage))[0])
    assert change is not None
    assert await stage.states() == {"a": "rolled_back"}
    await daemons[0].watch.look()
    assert len(await jobs(stage)) == 1


async def test_a_falling_rate_never_acts_and_enough_responses_prove(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    await traffic.answer(None, 1000, 300)
    await promoted(stage, settings, connect)
    daemon = Watched(connect)
    await traffic.answer("a", 1999, 10)
    await daemon.watch.look()
    assert (await watch_row(stage))[:3] == ("watching", 1999, 10)
    assert daemon.value("sentinel_watch_responses") == 1999
    evidence = daemon.value("sentinel_watch_log_e_value")
    assert evidence is not None
    assert evidence < 0
    await traffic.answer("a", 1, 0)
    await daemon.watch.look()
    assert (await watch_row(stage))[0] == "proven"
    assert await jobs(stage) == []
    await daemon.watch.look()
    assert daemon.value("sentinel_watch_responses") == 0


async def test_time_proves_too(stage: Stage, settings: Settings, connect: Connect) -> None:
    await promoted(stage, settings, connect)
    clock = ManualClock(dt.datetime.now(dt.UTC))
    daemon = Watched(connect, clock=clock)
    clock.advance(23.9 * 3600)
    await daemon.watch.look()
    assert (await watch_row(stage))[0] == "watching"
    clock.advance(0.2 * 3600)
    await daemon.watch.look()
    assert (await watch_row(stage))[0] == "proven"


def report(url: str, state: ReplicaState, *wrong: str) -> ReplicaReport:
    return ReplicaReport(replica=url, state=state, wrong=frozenset(wrong))


async def test_wrong_answers_of_all_live_replicas_several_looks_in_a_row_alarm_once(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    await promoted(stage, settings, connect)
    daemon = Watched(connect, wrong_looks=3)
    right = report("y", ReplicaState.OK)
    wrong, also = report("x", ReplicaState.WRONG, "a"), report("y", ReplicaState.WRONG, "a", "b")
    down = report("y", ReplicaState.DOWN)
    looks = [
        *[(wrong, right)] * 5,  # one is right: the route can use that one
        *[(report("x", ReplicaState.WRONG, "b"), also)] * 5,  # an adapter that is not in service
        *[(down, report("x", ReplicaState.DOWN))] * 5,  # nobody said anything
        (wrong, also), (wrong, also), (wrong, right),  # not in a row
        (wrong, also), (wrong, down),
    ]  # fmt: skip
    for look in looks:
        await daemon.watch.looked(MODEL, look)
    assert await jobs(stage) == []
    for _ in range(3):
        await daemon.watch.looked(MODEL, (wrong, also))
    assert [job.kind for job in await jobs(stage)] == [JobKind.ROLLBACK]
    assert (await watch_row(stage))[0] == "alarmed"
    assert daemon.value("sentinel_rollbacks_requested_total", cause="probe") == 1


async def test_an_adapter_that_no_run_made_is_left_to_a_person(
    stage: Stage, settings: Settings, connect: Connect, traffic: Traffic
) -> None:
    await traffic.answer(None, 2000, 0)
    await promoted(stage, settings, connect)
    await stage.fetch("UPDATE adapters SET run_id = NULL")
    await traffic.answer("a", 300, 100)
    daemon = Watched(connect)
    await daemon.watch.look()
    assert await jobs(stage) == []
    assert (await watch_row(stage))[0] == "alarmed"
