"""When bad records are a flood."""

from __future__ import annotations

import pytest

from consumers.flood import FloodGuard, FloodLimits

LIMITS = FloodLimits(ratio=0.5, window=10, consecutive=4)


def halts_at(guard: FloodGuard, records: str) -> int | None:
    """Number of records until it halts; ``x`` is bad."""
    for number, record in enumerate(records, 1):
        if guard.observe(record == "x"):
            return number
    return None


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ("." * 100, None),
        ("xxxx", 4),
        ("xxx.xxx.", None),
        ("xxx." * 2 + "xx", 10),
        (".x" * 5, 10),
        (".x" * 4 + "..", None),
        ("..x" * 20, None),
        ("." * 10 + "xx.xx.x", 17),
    ],
)
def test_a_row_or_a_share_of_the_window(records: str, expected: int | None) -> None:
    assert halts_at(FloodGuard(LIMITS), records) == expected


def test_the_window_slides() -> None:
    guard = FloodGuard(LIMITS)
    assert halts_at(guard, "xx.x" + "." * 6) is None
    assert halts_at(guard, "....") is None
    assert halts_at(guard, "xx.xx.x") == 7, "the bad ones of before are out of the window"


def test_an_allowance_is_spent_by_records_and_not_judged() -> None:
    guard = FloodGuard(LIMITS, allowance=6)
    assert halts_at(guard, "xxxxxx") is None
    assert guard.allowance == 0
    assert halts_at(guard, "xxxx") == 4
