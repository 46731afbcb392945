"""The probe's arithmetic."""

from __future__ import annotations

import pytest

from sentinel.serving import AGREEMENT, ReplicaReport, ReplicaState, agreement, announceable
from sentinel.serving_desired import Probe

SIXTEEN = tuple("abcdefghijklmnop")


def changed(count: int) -> tuple[str, ...]:
    """Sixteen tokens of which the last ``count`` are others."""
    return SIXTEEN[: 16 - count] + ("?",) * count


@pytest.mark.parametrize(("others", "enough"), [(0, True), (1, True), (2, False), (16, False)])
def test_nine_tenths_of_sixteen_tokens(others: int, enough: bool) -> None:
    share = agreement([Probe("q", SIXTEEN)], [changed(others)])
    assert share == pytest.approx((16 - others) / 16)
    assert (share >= AGREEMENT) is enough


def test_only_the_first_sixteen_tokens_count() -> None:
    assert agreement([Probe("q", (*SIXTEEN, "x"))], [(*SIXTEEN, "y")]) == 1.0


def test_an_answer_that_is_too_short_or_too_long_agrees_less() -> None:
    assert agreement([Probe("q", SIXTEEN)], [SIXTEEN[:8]]) == 0.5
    assert agreement([Probe("q", SIXTEEN[:8])], [SIXTEEN]) == 0.5
    assert agreement([Probe("q", SIXTEEN)], [()]) == 0.0


def test_tokens_are_compared_at_their_place() -> None:
    assert agreement([Probe("q", SIXTEEN)], [SIXTEEN[1:] + SIXTEEN[:1]]) == 0.0


def test_the_share_is_taken_over_all_probes() -> None:
    probes = [Probe("one", SIXTEEN), Probe("two", SIXTEEN)]
    assert agreement(probes, [changed(3), SIXTEEN]) == pytest.approx(29 / 32)


def report(state: ReplicaState, *proven: str) -> ReplicaReport:
    return ReplicaReport(replica="x", state=state, proven=frozenset(proven))


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([], False),
        ([report(ReplicaState.DOWN)], False),
        ([report(ReplicaState.OK, "new")], True),
        ([report(ReplicaState.OK, "new"), report(ReplicaState.DOWN)], True),
        ([report(ReplicaState.OK, "new"), report(ReplicaState.STALE)], False),
        ([report(ReplicaState.OK, "new"), report(ReplicaState.LAGGING, "old")], False),
        ([report(ReplicaState.OK, "new"), report(ReplicaState.WRONG, "new")], True),
    ],
)
def test_a_promotion_is_announced_when_all_that_live_have_proven_it(
    reports: list[ReplicaReport], expected: bool
) -> None:
    assert announceable(reports, "new") is expected
