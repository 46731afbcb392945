"""Two models on the same prompts: exact McNemar test and paired bootstrap. Prompts are the units, never tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

RESAMPLES: Final = 10_000
_BLOCK: Final = 500
"""Resamples in memory at once."""


class McNemar(Struct, frozen=True):
    """The discordant pairs and what they say."""

    first_only: int
    """Prompts at which only the first model has the property."""
    second_only: int
    n: int
    """All pairs."""
    p_value: float
    """Two-sided, exact; 1 without discordant pairs."""
    odds_ratio: float | None
    """first_only / second_only; None where second_only is 0."""


class Difference(Struct, frozen=True):
    """Second minus first, with a two-sided interval from resampled prompts."""

    value: float | None
    low: float
    high: float
    n: int


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact test that both models have the property equally often (McNemar 1947, Psychometrika 12:153-157).

    Given the number of discordant pairs, each side is a fair coin: the two-sided binomial test at 1/2.

    Raises:
        ValueError: the sequences are not of one length.
    """
    first_only = sum(one and not other for one, other in zip(first, second, strict=True))
    second_only = sum(other and not one for one, other in zip(first, second, strict=True))
    discordant = first_only + second_only
    p_value = 1.0
    if discordant:
        from scipy.stats import binomtest

        p_value = float(binomtest(first_only, discordant, 0.5).pvalue)
    odds = first_only / second_only if second_only else None
    return McNemar(first_only, second_only, len(first), p_value, odds)


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Difference:
    """Percentile interval of the mean difference, prompts drawn with replacement, both models' values kept together.

    Source: Efron and Tibshirani 1993, chapter 13; for comparing systems on one test set Koehn 2004 (EMNLP).
    Where every prompt has the same difference the interval is that point; with few prompts it is too short.

    Raises:
        ValueError: the sequences are not of one length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs")
    if not first:
        return Difference(None, -1.0, 1.0, 0)
    import numpy as np

    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    rng = np.random.default_rng(seed)
    size = len(differences)
    # Differences of outcomes take few values: how often each is drawn is multinomial, and quick to draw.
    values, counts = np.unique(differences, return_counts=True)
    means = []
    for start in range(0, resamples, _BLOCK):
        drawn = rng.multinomial(size, counts / size, size=min(_BLOCK, resamples - start))
        means.append(drawn @ values / size)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Difference(float(differences.mean()), float(low), float(high), size)
