"""How often the gate errs: simulated sequences of candidates that are bad in one respect and far better in all others.

``python -m trainer.gate.simulation`` prints the tables. The tests are those of `trainer.gate.decision`, worked out once
for every pair of counts that occurs; floors are left out, since they can only lower the share that passes.
"""

from __future__ import annotations

import math
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sentinel.intervals import Rate, clopper_pearson
from sentinel.store.tries import MAX_TRIES, spent
from trainer.gate.proportions import Paired, non_inferiority_p, superiority_p

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Booleans = NDArray[np.bool_]
    Counts = NDArray[np.int64]

TOLERANCE: Final = 0.999
"""A simulated share may lie above alpha by chance: up to this quantile of the binomial at alpha."""


class Null(StrEnum):
    """In which respect the candidate is bad; it sits exactly on the boundary there."""

    SAFETY = "safety equal"
    USEFUL = "utility worse by the margin"
    FALSE_REFUSAL = "over-refusal worse by the margin"


class Setting(Struct, frozen=True, kw_only=True):
    """Sizes and rates of a simulated evaluation."""

    harmful: int = 600
    benign: int = 1000
    margin: float = 0.02
    differing: float = 0.04
    """Share of prompts on which candidate and incumbent differ, where the candidate is on the boundary."""
    alpha: float = 0.05
    tries: int = MAX_TRIES
    sequences: int = 10_000
    seed: int = 20260101


class Shares(Struct, frozen=True):
    """Shares of the prompts on which only the candidate, and only the incumbent, is good."""

    better: float
    worse: float


FAR_BETTER: Final = Shares(0.9, 0.0)
"""On harmful prompts: unsafe everywhere before, safe now."""
BETTER: Final = Shares(0.01, 0.0)
"""On benign prompts: the incumbent lost one in a hundred, the candidate none."""


class Region:
    """For one size and test, the p-value of every pair of counts; a level turns it into "passes"."""

    def __init__(self, n: int, margin: float | None) -> None:
        """``margin``: of non-inferiority; None: superiority."""
        self._n, self._margin = n, margin
        self._known: dict[tuple[int, int], float] = {}

    def p(self, better: int, worse: int) -> float:
        """The p-value of the gate's own test."""
        key = (better, worse)
        if key not in self._known:
            paired = Paired(self._n, better, worse)
            self._known[key] = (
                superiority_p(paired) if self._margin is None else non_inferiority_p(paired, self._margin)
            )
        return self._known[key]

    def ps(self, better: Counts, worse: Counts) -> NDArray[np.float64]:
        """p-values of many counts; each pair of counts is worked out once."""
        import numpy as np

        packed = better * (self._n + 1) + worse
        distinct, place = np.unique(packed, return_inverse=True)
        values = np.array([self.p(*divmod(int(one), self._n + 1)) for one in distinct])
        found: NDArray[np.float64] = values[place].reshape(better.shape)
        return found


def passed(setting: Setting, null: Null, *, budget: bool = True) -> int:
    """Sequences in which some try passes although every candidate is bad in the ``null`` respect.

    Without ``budget`` each try is tested at alpha itself.
    """
    return int(_passes(setting, null, budget=budget).any(axis=1).sum())


def _passes(setting: Setting, null: Null, *, budget: bool) -> Booleans:
    import numpy as np

    rng = np.random.default_rng([setting.seed, list(Null).index(null)])
    levels = np.array(
        [spent(setting.alpha, k) if budget else setting.alpha for k in range(1, setting.tries + 1)]
    )
    half, shift = setting.differing / 2, setting.margin / 2
    at_margin = Shares(half - shift, half + shift)
    rates = {Null.SAFETY: FAR_BETTER, Null.USEFUL: BETTER, Null.FALSE_REFUSAL: BETTER}
    rates[null] = Shares(half, half) if null is Null.SAFETY else at_margin
    everything = np.ones((setting.sequences, setting.tries), dtype=np.bool_)
    for told, shares in rates.items():
        n = setting.harmful if told is Null.SAFETY else setting.benign
        region = Region(n, None if told is Null.SAFETY else setting.margin)
        everything &= region.ps(*_draw(rng, n, shares, everything.shape)) <= levels
    return everything


def _draw(rng: np.random.Generator, n: int, shares: Shares, shape: tuple[int, ...]) -> tuple[Counts, Counts]:
    drawn = rng.multinomial(n, [shares.better, shares.worse, 1 - shares.better - shares.worse], size=shape)
    return drawn[..., 0], drawn[..., 1]


def power(n: int, margin: float, differing: float, k: int, *, alpha: float = 0.05) -> float:
    """Probability that an equally good candidate is found not worse at try ``k``; exact, no simulation.

    Sums the trinomial over every pair of counts; ``differing`` is the share of prompts on which the two differ.
    """
    level, region, total = spent(alpha, k), Region(n, margin), 0.0
    spread = math.sqrt(n * differing)
    for differ in range(
        max(0, int(n * differing - 8 * spread)), min(n, int(n * differing + 8 * spread) + 8) + 1
    ):
        here = _binomial(differ, n, differing)
        # The test passes from some count on.
        low, high = 0, differ + 1
        while low < high:
            middle = (low + high) // 2
            if region.p(middle, differ - middle) <= level:
                high = middle
            else:
                low = middle + 1
        total += here * math.fsum(_binomial(better, differ, 0.5) for better in range(low, differ + 1))
    return total


def needed(margin: float, differing: float, k: int, *, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """Fewest prompts, in tens, with which `power` reaches ``wanted``; the normal approximation starts the search."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(1 - spent(alpha, k)) + NormalDist().inv_cdf(wanted)
    n = max(10, int(z * z * differing / margin**2 / 10) * 10)
    while power(n, margin, differing, k, alpha=alpha) >= wanted and n > 10:
        n -= 10
    while power(n, margin, differing, k, alpha=alpha) < wanted:
        n += 10
    return n


def allowed(sequences: int, alpha: float) -> int:
    """The largest count of passing sequences that chance explains at a true share of alpha (`TOLERANCE`)."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(TOLERANCE)
    return math.ceil(sequences * alpha + z * math.sqrt(sequences * alpha * (1 - alpha)))


def _binomial(hits: int, n: int, share: float) -> float:
    if share in {0.0, 1.0}:
        return float(hits == n * share)
    return math.exp(
        math.lgamma(n + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(n - hits + 1)
        + hits * math.log(share)
        + (n - hits) * math.log1p(-share)
    )


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    """Print the errors at each boundary, with and without the budget of tries, and the power."""
    setting = Setting()
    _line(
        f"{setting.sequences:,} sequences of {setting.tries} tries, alpha {setting.alpha}, {setting.harmful} harmful"
        f" and {setting.benign} benign prompts, margin {setting.margin}, seed {setting.seed}"
    )
    _line(f"chance explains up to {allowed(setting.sequences, setting.alpha)} passing sequences at alpha")
    for null in Null:
        for differing in (0.02, 0.04, 0.1):
            if null is not Null.SAFETY and differing <= setting.margin:
                differing = setting.margin  # the smallest share at which the candidate can be that much worse
            here = Setting(differing=differing)
            within, without = (passed(here, null, budget=budget) for budget in (True, False))
            _line(
                f"{null.value:34} differing {differing:.2f}: a sequence passes {_share(within, setting)}"
                f"   without the budget {_share(without, setting)}"
            )
    _line("power to show that an equal candidate is not worse (exact)")
    for n, margin, k in ((740, 0.02, 1), (1500, 0.02, 5), (2950, 0.01, 1), (1000, 0.02, 1), (1000, 0.02, 2)):
        _line(f"n {n:5} margin {margin} try {k}, differing 0.04: {power(n, margin, 0.04, k):.3f}")


def _share(hits: int, setting: Setting) -> Rate:
    return clopper_pearson(hits, setting.sequences) if hits < 2000 else _mirrored(hits, setting.sequences)


def _mirrored(hits: int, n: int) -> Rate:
    other = clopper_pearson(n - hits, n)
    return Rate(hits / n, 1 - other.high, 1 - other.low, n)


if __name__ == "__main__":
    main()
