"""Waits are bounded, whatever a header says."""

from __future__ import annotations

import datetime as dt
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.backoff import MAX_RETRY_AFTER_S, RetryBudget, full_jitter, retry_after_seconds

NOW = dt.datetime(2026, 11, 21, 10, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0.25 ", 0.25),
        ("-3", 0.0),
        ("1e12", MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 10:00:30 -0000", 30.0),
        ("Sat, 99 Nov 2026 10:00:30 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_raises(header: str) -> None:
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


@given(st.integers(0, 10_000))
def test_jitter_stays_under_the_cap(attempt: int) -> None:
    assert (
        0 <= full_jitter(attempt, 0.5, 8.0, random.Random(attempt)) <= min(8.0, 0.5 * 2 ** min(attempt, 32))
    )


def test_jitter_uses_the_whole_range() -> None:
    rng = random.Random(3)
    waits = [full_jitter(2, 1.0, 60.0, rng) for _ in range(2_000)]
    assert min(waits) < 0.1
    assert max(waits) > 3.9
    assert 1.9 < sum(waits) / len(waits) < 2.1


def test_budget_is_a_share_of_successes() -> None:
    budget = RetryBudget(share=0.25, reserve=2.0)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(1_000):
        budget.earn()
    assert budget.left == 2.0
