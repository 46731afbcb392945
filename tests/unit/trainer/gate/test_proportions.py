"""The tests on paired shares, against published figures and against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sentinel.errors import CommandError
from trainer.gate.proportions import Paired, non_inferiority_p, superiority_p, tango, tango_z


@pytest.mark.parametrize(
    ("paired", "confidence", "low", "high", "digits"),
    [
        # Airway reactivity before and after transplantation (Fagerland, Lydersen and Laake 2014, table II).
        (Paired(21, 1, 7), 0.95, -0.517, -0.026, 3),
        # R's PropCIs::scoreci.mp(25, 28, 618) at 90 %, quoted to four digits; it counts second minus first.
        (Paired(618, 28, 25), 0.90, -0.0148, 0.0247, 4),
    ],
)
def test_published_intervals(paired: Paired, confidence: float, low: float, high: float, digits: int) -> None:
    assert [round(end, digits) for end in tango(paired, confidence)] == [low, high]


def likelihood_z(paired: Paired, difference: float) -> float:
    """The statistic with the nuisance share found by search, not by the formula."""
    shares = np.linspace(max(0.0, -difference), (1 - difference) / 2, 200_001)[1:-1]
    agree = paired.n - paired.better - paired.worse
    logs = (
        paired.better * np.log(shares + difference)
        + paired.worse * np.log(shares)
        + agree * np.log(1 - 2 * shares - difference)
    )
    share = float(shares[int(np.argmax(logs))])
    variance = paired.n * (2 * share + difference * (1 - difference))
    return (paired.better - paired.worse - paired.n * difference) / math.sqrt(variance)


@pytest.mark.parametrize("difference", [-0.3, -0.02, 0.01, 0.2])
@pytest.mark.parametrize(
    "paired", [Paired(100, 3, 7), Paired(1000, 20, 20), Paired(40, 0, 5), Paired(740, 9, 22)]
)
def test_the_nuisance_share_is_its_maximum_likelihood_estimate(paired: Paired, difference: float) -> None:
    assert tango_z(paired, difference) == pytest.approx(likelihood_z(paired, difference), abs=2e-3)


def test_at_equality_it_is_mcnemars_statistic() -> None:
    for better, worse in ((3, 9), (20, 20), (0, 4)):
        expected = (better - worse) / math.sqrt(better + worse)
        assert tango_z(Paired(300, better, worse), 0.0) == pytest.approx(expected)
    assert tango_z(Paired(300, 0, 0), 0.0) == 0.0


def test_superiority_is_the_binomial_test() -> None:
    for better, worse in itertools.product(range(0, 40, 3), repeat=2):
        expected = (
            stats.binomtest(better, better + worse, 0.5, alternative="greater").pvalue
            if better + worse
            else 1.0
        )
        assert superiority_p(Paired(100, better, worse)) == pytest.approx(expected, rel=1e-9)


def test_the_p_value_is_the_normal_tail() -> None:
    paired = Paired(1000, 12, 20)
    assert non_inferiority_p(paired, 0.02) == pytest.approx(stats.norm.sf(tango_z(paired, -0.02)), rel=1e-9)
    with pytest.raises(CommandError):
        non_inferiority_p(Paired(0, 0, 0), 0.02)
    with pytest.raises(CommandError):
        non_inferiority_p(paired, 0.0)


counts = st.integers(1, 400).flatmap(
    lambda n: st.integers(0, n).flatmap(
        lambda differ: st.integers(0, differ).map(lambda better: Paired(n, better, differ - better))
    )
)


@settings(deadline=None, max_examples=150)
@given(counts, st.floats(0.6, 0.9999), st.floats(0.001, 0.6))
def test_interval_and_test_agree(paired: Paired, confidence: float, margin: float) -> None:
    low, high = tango(paired, confidence)
    assert -1 <= low <= paired.difference <= high <= 1
    level = (1 - confidence) / 2
    p = non_inferiority_p(paired, margin)
    if abs(low + margin) > 1e-9:
        assert (p < level) == (low > -margin)
    # Turned round, it is the same interval with the other sign.
    other = tango(Paired(paired.n, paired.worse, paired.better), confidence)
    assert other == pytest.approx((-high, -low), abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(counts)
def test_the_statistic_falls_as_the_hypothesis_rises(paired: Paired) -> None:
    values = [tango_z(paired, at / 50) for at in range(-49, 50)]
    assert all(one >= two - 1e-9 for one, two in itertools.pairwise(values))


@pytest.mark.parametrize(("n", "differing"), [(60, 0.2), (120, 0.1), (740, 0.04)])
def test_non_inferiority_keeps_its_level_by_enumeration(n: int, differing: float) -> None:
    """The exact probability of passing at the boundary, over every pair of counts."""
    margin, level = 0.02, 0.0304
    passing = 0.0
    for differ in range(n + 1):
        here = stats.binom.pmf(differ, n, differing)
        if here < 1e-12:
            continue
        for better in range(differ + 1):
            if non_inferiority_p(Paired(n, better, differ - better), margin) <= level:
                passing += here * stats.binom.pmf(better, differ, 0.5 - margin / (2 * differing))
    assert 0.3 * level < passing < 1.1 * level
