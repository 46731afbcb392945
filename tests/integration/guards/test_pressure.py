"""What a sick guard is spared: repeats beyond a budget, and requests before the time that it named."""

from __future__ import annotations

import asyncio

import pytest

from sentinel.embedded.scripted_guard import ERROR_MARK, ScriptedGuard
from sentinel.errors import SlowDownError, UnavailableError
from sentinel.guards.base import GuardFailure
from sentinel.verdicts import Assessment, Label
from tests.integration.guards.conftest import MakeGuard
from tests.integration.guards.contract import response
from tests.support.waiting import wait_until

BUDGET = 50
"""Retries that a client has in reserve (`sentinel.backoff.RetryBudget`)."""


async def test_a_failing_server_is_asked_again_within_a_budget_text_by_text(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(mode="single")
    texts = 200
    scripted.set_faults(error_rate=1.0)
    with pytest.raises(UnavailableError):
        await guard.assess([response(f"text {n}") for n in range(texts)])
    # Each text once, the budget, and probes that texts which fail together share; three tries each would be 600.
    assert guard.stats.retries <= BUDGET
    assert scripted.stats.requests == guard.stats.calls
    assert guard.stats.calls - guard.stats.probes <= texts + BUDGET


async def test_a_failing_server_is_asked_again_within_a_budget_batch_by_batch(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(mode="batch")
    scripted.set_faults(error_rate=1.0)
    batches = 100
    calls = [guard.assess([response("one"), response("two")]) for _ in range(batches)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * batches
    assert guard.stats.retries <= BUDGET
    assert guard.stats.calls - guard.stats.probes <= batches + BUDGET


async def test_without_budget_a_bad_text_still_has_its_tries_while_the_guard_works(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(mode="single", total_timeout=30.0, probe_timeout=30.0)
    await guard.assess([response("fine")])
    before = scripted.stats.requests
    bad = 60
    judged = await guard.assess([response(ERROR_MARK) for _ in range(bad)] + [response("fine")])
    assert [said.reason for said in judged if isinstance(said, GuardFailure)] == ["guard_error"] * bad
    assert isinstance(judged[-1], Assessment)
    assert judged[-1].label is Label.SAFE
    assert scripted.stats.requests - before - guard.stats.probes == 3 * bad + 1


async def test_a_hanging_guard_is_not_asked_again_by_each_text(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(mode="single", total_timeout=0.5, probe_timeout=0.2)
    scripted.set_faults(hang_rate=1.0)
    with pytest.raises(UnavailableError):
        await guard.assess([response(f"text {n}") for n in range(8)])
    assert guard.stats.calls - guard.stats.probes == 8
    assert guard.stats.retries == 0


async def test_texts_of_a_batch_that_timed_out_are_asked_one_by_one(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(mode="batch", total_timeout=2.0, probe_timeout=30.0)
    scripted.set_faults(hang_rate=1.0)
    asking = asyncio.create_task(guard.assess([response("one"), response("two")]))
    await wait_until(lambda: scripted.stats.faults == 1)
    scripted.clear_faults()
    judged = await asking
    assert [said.label for said in judged if isinstance(said, Assessment)] == [Label.SAFE] * 2
    assert guard.stats.isolated == 2
    assert scripted.stats.batch_requests == 0
    assert scripted.stats.single_requests >= 2 + guard.stats.probes


@pytest.mark.parametrize("mode", ["batch", "single"])
async def test_requests_that_wait_for_a_place_heed_what_another_was_told(
    scripted: ScriptedGuard, make_guard: MakeGuard, mode: str
) -> None:
    guard = make_guard(mode=mode, max_in_flight=1, patience=0.5)
    await guard.assess([response("fine")])
    scripted.set_faults(slow_down_rate=1.0, retry_after="600")
    before = scripted.stats.requests
    calls = [guard.assess([response(f"text {n}")]) for n in range(6)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [SlowDownError] * 6
    assert scripted.stats.requests - before == 1
    # Neither is a probe text sent before that time.
    assert not await guard.probe()
    assert scripted.stats.requests - before == 1


async def test_after_a_short_wait_the_probe_is_sent(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard(mode="batch", patience=0.0)
    await guard.assess([response("fine")])
    scripted.set_faults(slow_down_rate=1.0, retry_after="0.2")
    with pytest.raises(SlowDownError):
        await guard.assess([response("fine")])
    scripted.clear_faults()
    assert await guard.probe()


async def test_a_guard_that_hangs_at_the_start_is_known_after_one_time_limit_by_all(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(mode="auto", total_timeout=2.0)
    scripted.set_faults(hang_rate=1.0)
    calls = [guard.assess([response(f"text {n}")]) for n in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    assert guard.stats.calls == 1
    scripted.clear_faults()
    (said,) = await guard.assess([response("fine")])
    assert isinstance(said, Assessment)
    assert guard.batched
