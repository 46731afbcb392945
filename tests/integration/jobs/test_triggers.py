"""Triggers over a real store: fresh pairs, rates, ages and mixes; one job a crossing, whoever looks and when."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson
import pytest

from daemon.triggers.evaluator import Evaluator
from sentinel import jobs
from sentinel.clock import ManualClock, SystemClock
from sentinel.jobs import JobKind
from sentinel.settings import Triggers
from sentinel.store import training, triggers
from tests.integration.jobs.conftest import add_dataset, add_interactions, add_pairs

Conn: TypeAlias = "asyncpg.Connection[Any]"

NOTHING_ELSE = {
    "unsafe_rate": {"enabled": False},
    "adapter_age": {"enabled": False},
    "drift": {"enabled": False},
}


def clock_of_today() -> ManualClock:
    """A clock that starts now, since runs carry the database's times, and moves only when told to."""
    return ManualClock(SystemClock().now())


def pairs_rule(**changes: Any) -> Triggers:
    """Only the number of pairs: 10, at least 5 for a run."""
    return Triggers.model_validate(
        {"new_pairs": {"count": 10}, "min_fresh_pairs": 5, "cooldown_s": 600, **NOTHING_ELSE, **changes}
    )


def evaluator(settings: Triggers, clock: ManualClock) -> Evaluator:
    return Evaluator(settings, ["main"], "default", clock)


async def finish_run(
    conn: Conn, run_id: UUID, state: str = "succeeded", pairs: list[UUID] | None = None
) -> None:
    """The run as the trainer leaves it: with a data set where it got so far, and its job gone."""
    attempt = await training.begin_attempt(conn, run_id)
    if pairs is not None:
        await add_dataset(conn, run_id, pairs)
    await training.finish(conn, run_id, attempt, state)
    await conn.execute("DELETE FROM pgqueuer.pgqueuer")


async def firings(conn: Conn) -> list[tuple[str, int, UUID | None]]:
    rows = await conn.fetch(
        "SELECT trigger, crossing, run_id FROM trigger_firings ORDER BY fired_at, crossing"
    )
    return [(row["trigger"], row["crossing"], row["run_id"]) for row in rows]


async def evidence_of(conn: Conn, trigger: str, crossing: int) -> dict[str, Any]:
    stored = await conn.fetchval(
        "SELECT evidence::text FROM trigger_firings WHERE trigger = $1 AND crossing = $2", trigger, crossing
    )
    return dict(orjson.loads(stored))


async def test_a_crossing_leaves_its_firing_its_run_and_its_job(conn: Conn) -> None:
    clock = clock_of_today()
    before = clock.now() - dt.timedelta(seconds=60)
    made = await add_pairs(conn, 9, at=before)
    looker = evaluator(pairs_rule(), clock)
    assert await looker.look(conn) == []
    made += await add_pairs(conn, 1, at=clock.now())
    await add_pairs(conn, 3, at=clock.now(), served_model="other")
    (run_id,) = await looker.look(conn)
    assert await firings(conn) == [("new_pairs", 1, run_id)]
    run = await training.run_of(conn, run_id)
    assert (run.served_model, run.state, run.config["recipe"]) == ("main", "queued", "default")
    job = await conn.fetchrow("SELECT entrypoint, payload, dedupe_key FROM pgqueuer.pgqueuer")
    assert job is not None
    payload = jobs.decode(job["payload"])
    assert (job["entrypoint"], job["dedupe_key"]) == ("train", "train:main")
    assert (payload.run_id, payload.trigger_firing_id) == (run_id, "new_pairs/1")
    found = await evidence_of(conn, "new_pairs", 1)
    assert {UUID(one) for one in found.pop("pair_ids")} == set(made)
    assert found == {
        "value": 10, "threshold": 10, "fresh_pairs": 10, "pairs": 10,
        "window_from": (clock.now() - dt.timedelta(seconds=3600)).isoformat(),
        "window_until": clock.now().isoformat(),
        "pairs_from": before.isoformat(), "pairs_until": clock.now().isoformat(),
    }  # fmt: skip
    assert [await looker.look(conn) for _ in range(3)] == [[], [], []]


async def test_a_firing_leads_to_the_pairs_that_caused_it_and_to_no_earlier_ones(
    conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids as far as a row should hold them; with the two moments a query finds all."""
    monkeypatch.setattr(triggers, "MOST_NAMED", 4)
    clock = clock_of_today()
    looker = evaluator(pairs_rule(cooldown_s=0), clock)
    used = await add_pairs(conn, 10, at=clock.now())
    (first,) = await looker.look(conn)
    await finish_run(conn, first, pairs=used)
    await looker.look(conn)  # below: armed again
    clock.advance(86_400)  # later than the run began by the database's clock, however slow this machine is
    older = await add_pairs(conn, 8, at=clock.now())
    clock.advance(60)
    newer = await add_pairs(conn, 4, at=clock.now())
    assert len(await looker.look(conn)) == 1
    found = await evidence_of(conn, "new_pairs", 2)
    assert (found["pairs"], {UUID(one) for one in found["pair_ids"]}) == (12, set(newer))
    between = [dt.datetime.fromisoformat(found[end]) for end in ("pairs_from", "pairs_until")]
    rows = await conn.fetch(
        "SELECT pair_id FROM preference_pairs WHERE served_model = 'main' AND created_at BETWEEN $1 AND $2",
        *between,
    )
    assert {row["pair_id"] for row in rows} == {*older, *newer}


async def test_a_firing_leads_to_the_answers_that_crossed_the_budget(conn: Conn) -> None:
    clock = clock_of_today()
    settings = pairs_rule(
        min_fresh_pairs=1, new_pairs={"enabled": False}, unsafe_rate={"budget": 0.1, "min_answers": 10}
    )
    (pair,) = await add_pairs(conn, 1, at=clock.now())
    await add_interactions(conn, 4, at=clock.now() - dt.timedelta(seconds=3600), unsafe=True)
    await add_interactions(conn, 3, at=clock.now(), unsafe=True)
    await add_interactions(conn, 17, at=clock.now())
    assert len(await evaluator(settings, clock).look(conn)) == 1
    found = await evidence_of(conn, "unsafe_rate", 1)
    assert (found["value"], found["pair_ids"]) == (0.15, [str(pair)])
    rows = await conn.fetch(
        "SELECT unsafe FROM interactions WHERE served_model = 'main' AND recorded_at > $1 AND recorded_at <= $2",
        *(dt.datetime.fromisoformat(found[end]) for end in ("window_from", "window_until")),
    )
    assert sum(row["unsafe"] for row in rows) / len(rows) == found["value"]


async def test_two_daemons_that_look_at_once_start_one_job(conn: Conn, other: Conn) -> None:
    for round_ in range(1, 6):
        clock = clock_of_today()
        made = await add_pairs(conn, 10, at=clock.now())
        both = [evaluator(pairs_rule(cooldown_s=0), clock) for _ in range(2)]
        found = await asyncio.gather(both[0].look(conn), both[1].look(other))
        started = [run_id for runs in found for run_id in runs]
        assert len(started) == 1
        assert len(await firings(conn)) == round_
        await finish_run(conn, started[0], pairs=made)
        await both[1].look(other)  # below: armed again
        assert await conn.fetchval("SELECT armed FROM trigger_states")


async def test_a_daemon_that_comes_late_fires_nothing_for_what_it_measured_before(
    conn: Conn, other: Conn
) -> None:
    """The whole way of a crossing, re-arming included, fits between its measuring and its writing."""
    clock = clock_of_today()
    made = await add_pairs(conn, 10, at=clock.now())
    looker = evaluator(pairs_rule(cooldown_s=0), clock)
    await triggers.note(other, "new_pairs", "main", 10.0, clock.now())
    seen = (await triggers.states(other, "main"))["new_pairs"]
    (run_id,) = await looker.look(conn)
    await finish_run(conn, run_id, pairs=made)
    await looker.look(conn)
    assert await conn.fetchval("SELECT armed FROM trigger_states")
    assert seen.armed
    assert await triggers.fire(other, "new_pairs", "main", seen.crossing, {}, {}) is None
    assert not await triggers.notify(other, "new_pairs", "main", seen.crossing, {})
    assert not await triggers.rearm(other, "new_pairs", "main", seen.crossing)
    assert len(await firings(conn)) == 1
    assert (await jobs.waiting(conn, JobKind.TRAIN)).jobs == 0


async def test_a_restart_remembers_what_has_fired(conn: Conn) -> None:
    clock = clock_of_today()
    await add_pairs(conn, 10, at=clock.now())
    assert len(await evaluator(pairs_rule(), clock).look(conn)) == 1
    for _ in range(3):
        clock.advance(86_400)
        assert await evaluator(pairs_rule(), clock).look(conn) == []


async def test_a_firing_without_its_job_does_not_happen(conn: Conn) -> None:
    """The last job of the served model is still being put away: everything is taken back, and tried again."""
    clock = clock_of_today()
    await add_pairs(conn, 10, at=clock.now())
    looker = evaluator(pairs_rule(), clock)
    await jobs.enqueue(conn, jobs.JobPayload(kind=JobKind.TRAIN, run_id=UUID(int=1), served_model="main"))
    assert await looker.look(conn) == []
    assert await firings(conn) == []
    assert await training.runs(conn) == ()
    assert (await triggers.states(conn, "main"))["new_pairs"] == triggers.RuleState(armed=True, crossing=0)
    await jobs.withdraw(conn, JobKind.TRAIN, "main")
    assert len(await looker.look(conn)) == 1


async def test_after_a_no_it_takes_fresh_pairs_and_the_cool_down(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(), clock)
    # Two of them were dropped by the run, as duplicates: they do not count again.
    made = await add_pairs(conn, 12, at=clock.now())
    (first,) = await looker.look(conn)
    await finish_run(conn, first, pairs=made[:10])
    clock.advance(60)
    assert await looker.look(conn) == []
    assert (await triggers.fresh_pairs(conn, "main")).by_client == {}
    await add_pairs(conn, 10, at=clock.now())
    assert await looker.look(conn) == [], "fresh pairs, but the cool-down"
    clock.advance(600)
    (second,) = await looker.look(conn)
    await finish_run(conn, second, pairs=made)
    clock.advance(3600)
    assert await looker.look(conn) == [], "the cool-down is over, but nothing is fresh"
    assert [(trigger, crossing) for trigger, crossing, _ in await firings(conn)] == [
        ("new_pairs", 1),
        ("new_pairs", 2),
    ]


async def test_a_run_that_failed_without_a_data_set_is_repeated_after_the_cool_down(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(), clock)
    await add_pairs(conn, 10, at=clock.now())
    (first,) = await looker.look(conn)
    await finish_run(conn, first, "failed")
    assert await looker.look(conn) == []
    clock.advance(601)
    assert await looker.look(conn) == [], "armed again"
    (second,) = await looker.look(conn)
    await finish_run(conn, second, "cancelled")
    clock.advance(3600)
    assert [await looker.look(conn) for _ in range(3)] == [[], [], []], "somebody did not want it"


async def test_a_flood_of_one_client_starts_nothing_where_others_are_served(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(), clock)
    await add_interactions(conn, 5, at=clock.now(), tenant="quiet")
    await add_interactions(conn, 50, at=clock.now(), tenant="flood")
    await add_pairs(conn, 200, at=clock.now(), tenant="flood")
    assert await looker.look(conn) == []
    assert await conn.fetchval("SELECT value FROM trigger_states") == 5
    await add_pairs(conn, 5, at=clock.now(), tenant="quiet")
    assert len(await looker.look(conn)) == 1


async def test_a_flood_starts_at_most_one_job(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(), clock)
    started: list[UUID] = []
    for _ in range(30):
        await add_pairs(conn, 20, at=clock.now())
        started += await looker.look(conn)
        clock.advance(10)
    assert len(started) == 1
    assert (await jobs.waiting(conn, JobKind.TRAIN)).jobs == 1


async def test_a_frozen_served_model_fires_when_it_is_thawed(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(), clock)
    await add_pairs(conn, 10, at=clock.now())
    for frozen in ("main", "*"):
        await conn.execute("INSERT INTO freezes (served_model, actor) VALUES ($1, 'me')", frozen)
        assert await looker.look(conn) == []
        assert await firings(conn) == []
        await conn.execute("DELETE FROM freezes")
    assert len(await looker.look(conn)) == 1


async def test_the_error_budget_with_its_minimum(conn: Conn) -> None:
    clock = clock_of_today()
    settings = pairs_rule(
        new_pairs={"count": 1000}, unsafe_rate={"budget": 0.05, "min_answers": 100}, window_s=600
    )
    looker = evaluator(settings, clock)
    await add_pairs(conn, 5, at=clock.now())
    await add_interactions(conn, 50, at=clock.now() - dt.timedelta(seconds=900), unsafe=True)
    await add_interactions(conn, 9, at=clock.now(), unsafe=True)
    await add_interactions(conn, 90, at=clock.now())
    assert await looker.look(conn) == [], "99 answers in the window are too few, the older ones are out of it"
    await add_interactions(conn, 101, at=clock.now())
    assert await looker.look(conn) == [], "9 of 200 are within the budget"
    await add_interactions(conn, 1, at=clock.now(), unsafe=True)
    assert await looker.look(conn) == [], "10 of 201 are too"
    await add_interactions(conn, 1, at=clock.now(), unsafe=True)
    (run_id,) = await looker.look(conn)
    assert await firings(conn) == [("unsafe_rate", 1, run_id)]


async def test_one_run_where_two_rules_cross_together(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(unsafe_rate={"budget": 0.05, "min_answers": 10}), clock)
    await add_pairs(conn, 10, at=clock.now())
    await add_interactions(conn, 20, at=clock.now(), unsafe=True)
    assert len(await looker.look(conn)) == 1
    assert await looker.look(conn) == []
    assert [trigger for trigger, *_ in await firings(conn)] == ["new_pairs"]


async def test_an_old_adapter_is_reported_and_replaced_once_pairs_suffice(conn: Conn) -> None:
    clock = clock_of_today()
    looker = evaluator(pairs_rule(new_pairs={"count": 1000}, adapter_age={"days": 30}), clock)
    assert await looker.look(conn) == [], "a base has no age"
    for state in ("candidate", "loading", "probing", "promoted"):
        await conn.execute(
            "INSERT INTO adapters (adapter, served_model, state, path, weights_sha256, manifest)"
            " VALUES ('main-1', 'main', $1, '/', 'x', '{}') ON CONFLICT (adapter) DO UPDATE SET state = $1",
            state,
        )
    assert await looker.look(conn) == []
    assert await firings(conn) == []
    clock.advance(31 * 86_400)
    assert await looker.look(conn) == []
    assert await firings(conn) == [("adapter_age", 1, None)]
    found = await evidence_of(conn, "adapter_age", 1)
    assert (found["pairs"], found["pair_ids"]) == (0, [])
    assert await looker.look(conn) == []
    await add_pairs(conn, 5, at=clock.now())
    (run_id,) = await looker.look(conn)
    assert await firings(conn) == [("adapter_age", 1, run_id)]
    assert await looker.look(conn) == []


async def test_a_shift_of_the_mix_is_reported(conn: Conn) -> None:
    clock = clock_of_today()
    settings = pairs_rule(
        new_pairs={"count": 1000}, drift={"psi": 0.25, "min_answers": 100, "reference_s": 3600}, window_s=600
    )
    looker = evaluator(settings, clock)
    before = clock.now() - dt.timedelta(seconds=1200)
    await add_interactions(conn, 190, at=before)
    await add_interactions(conn, 10, at=before, unsafe=True)
    await add_interactions(conn, 80, at=clock.now())
    assert await looker.look(conn) == []
    assert await conn.fetchval("SELECT value FROM trigger_states WHERE trigger = 'drift'") is None
    await add_interactions(conn, 60, at=clock.now(), refusal=True)
    await looker.look(conn)
    value = await conn.fetchval("SELECT value FROM trigger_states WHERE trigger = 'drift'")
    assert value is not None
    assert math.isfinite(value)
    assert await firings(conn) == [("drift", 1, None)]
