"""kill -9 at random points: N records in, N outcomes, none twice. The numbers stand in the run's log."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.crash import Outcome, Plan, crash
from benchmarks.stack import open_stack

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


async def _run(plan: Plan, capsys: pytest.CaptureFixture[str]) -> Outcome:
    async with open_stack(argparse.Namespace(kafka=None)) as stack:
        found = await crash(stack, plan, quiet=True)
    # Of a test that passes pytest shows nothing, and the numbers are what is to be seen.
    with capsys.disabled():
        print(
            f"\nkills {found.kills} ({found.kills_mid_work} in the middle of work), records {found.records},"
            f" outcomes {found.outcomes}, {found.seconds:.0f} s"
        )
    return found


@pytest.mark.timeout(1800)
async def test_fifty_kills_lose_and_double_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    # Kills of quiet moments alone would show nothing. With an idle machine more than forty of the fifty meet work; with
    # a busy one, whose daemons die before they begin, others are made until a third of the fifty are there.
    plan = Plan(kills=50, rate=150, shortest=0.6, longest=3.0, static=True, seed=20260301, mid_work=15)
    found = await _run(plan, capsys)
    assert found.problems == []
    assert found.kills >= 50
    assert found.kills_mid_work >= 15
    assert found.records > 5000


@pytest.mark.timeout(300)
async def test_kills_of_a_dynamic_member_lose_and_double_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        kills=3,
        rate=150,
        shortest=2.0,
        longest=12.0,
        static=False,
        seed=7,
        session_timeout_ms=6000,
        patience=60,
    )
    found = await _run(plan, capsys)
    assert found.problems == []
