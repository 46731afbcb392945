"""Can surface features alone tell the chosen answers from the rejected ones?

If they can, the cheapest way to fit the data set is to learn the surface ("begin with Sorry"), not the difference
in what is asked. A logistic regression on lengths, first words and hashed words, tested by grouped
cross-validation, measures how far they can; AUROC 0.5 is chance, 1 tells all. The harmful pairs of any safety
data set score near 1 on their own: it is the benign rows, whose refusals are the rejected side, that bring it down.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sentinel.manifests import ShortcutProbe
from trainer.dataset.likeness import words
from trainer.dataset.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

_FOLDS: Final = 5
_BAG: Final = 256
_FIRST: Final = 64
"""Columns into which words are hashed: of the whole answer, and of each of its first three places."""
_FIRST_WORDS: Final = 3
_RIDGE: Final = 1.0
"""Weight of the squared coefficients; features are standardised."""
_STEPS: Final = 150
_MOST: Final = 1_000
"""Rows looked at; more change the third decimal only."""


def probe(rows: Sequence[Row], groups: Sequence[int], *, warn_at: float, seed: int) -> ShortcutProbe:
    """AUROC of all surface features together and of each sort alone, out of fold.

    Groups are the split's: no prompt stands in both halves of a fold. With fewer than ten groups nothing is
    measured (None).
    """
    import numpy as np

    chosen = _drawn(rows, groups, seed)
    kept_groups = sorted({group for _, group in chosen})
    if len(kept_groups) < 2 * _FOLDS:
        return ShortcutProbe(auroc=None, by_features={}, warn_at=warn_at, warning=False, rows=len(rows))
    number = {
        group: at for at, group in enumerate(np.random.default_rng(seed).permutation(kept_groups).tolist())
    }
    sides = [text for row, _ in chosen for text in (row.chosen, row.rejected)]
    labels = np.tile([1.0, 0.0], len(chosen))
    folds = np.repeat([number[group] % _FOLDS for _, group in chosen], 2)
    blocks = {"length": _lengths(sides), "first_words": _first_words(sides), "bag_of_words": _bag(sides)}
    whole = np.concatenate(list(blocks.values()), axis=1)
    auroc = round(_cross_validated(whole, labels, folds), 4)
    return ShortcutProbe(
        auroc=auroc,
        by_features={
            name: round(_cross_validated(block, labels, folds), 4) for name, block in blocks.items()
        },
        warn_at=warn_at,
        warning=auroc >= warn_at,
        rows=len(chosen),
    )


def _drawn(rows: Sequence[Row], groups: Sequence[int], seed: int) -> list[tuple[Row, int]]:
    import numpy as np

    paired = list(zip(rows, groups, strict=True))
    if len(paired) <= _MOST:
        return paired
    places = np.random.default_rng(seed).choice(len(paired), _MOST, replace=False)
    return [paired[place] for place in sorted(places.tolist())]


def _column(word: str, width: int) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % width


def _lengths(sides: Sequence[str]) -> Matrix:
    import numpy as np

    counts = np.array([[len(words(side)), len(side), side.count("\n")] for side in sides], dtype=float)
    return np.concatenate([np.log1p(counts), counts / (counts.max(axis=0) + 1.0)], axis=1)


def _first_words(sides: Sequence[str]) -> Matrix:
    import numpy as np

    made = np.zeros((len(sides), _FIRST_WORDS * _FIRST))
    for at, side in enumerate(sides):
        for place, word in enumerate(words(side)[:_FIRST_WORDS]):
            made[at, place * _FIRST + _column(word, _FIRST)] = 1.0
    return made


def _bag(sides: Sequence[str]) -> Matrix:
    import numpy as np

    made = np.zeros((len(sides), _BAG))
    for at, side in enumerate(sides):
        for word in set(words(side)):
            made[at, _column(word, _BAG)] = 1.0
    return made


def _cross_validated(features: Matrix, labels: Matrix, folds: Any) -> float:
    """AUROC of out-of-fold scores, over all folds together."""
    import numpy as np

    scores = np.zeros(len(labels))
    for fold in range(_FOLDS):
        tested = folds == fold
        train, test = features[~tested], features[tested]
        mean, spread = train.mean(axis=0), train.std(axis=0)
        spread[spread < 1e-9] = 1.0
        weights = _fitted((train - mean) / spread, labels[~tested])
        scores[tested] = (test - mean) / spread @ weights[:-1] + weights[-1]
    return auroc(scores, labels)


def _fitted(features: Matrix, labels: Matrix) -> Matrix:
    """Coefficients, the intercept last, of a ridge logistic regression, by accelerated gradient steps.

    (Nesterov's method with the step that the largest curvature allows; quasi-Newton solvers of BLAS libraries
    wait for threads longer than they compute at this size.)
    """
    import numpy as np

    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    ridge = np.append(np.full(features.shape[1], _RIDGE), 1e-6)
    step = 1.0 / (0.25 * _largest_eigenvalue(design) + _RIDGE)
    weights = ahead = np.zeros(design.shape[1])
    for turn in range(_STEPS):
        wrong = 1.0 / (1.0 + np.exp(-np.clip(design @ ahead, -30, 30))) - labels
        following = ahead - step * (design.T @ wrong + ridge * ahead)
        ahead = following + turn / (turn + 3) * (following - weights)
        weights = following
    return weights


def _largest_eigenvalue(design: Matrix) -> float:
    """Of the Gram matrix, by power iteration, with a tenth added for what that leaves out."""
    import numpy as np

    vector = np.ones(design.shape[1])
    for _ in range(20):
        vector = design.T @ (design @ vector)
        vector /= np.linalg.norm(vector) + 1e-12
    return 1.1 * float(np.linalg.norm(design @ vector) ** 2)


def auroc(scores: Matrix, labels: Matrix) -> float:
    """Probability that a random positive scores above a random negative; ties count half (Mann and Whitney)."""
    import numpy as np

    positive, negative = np.sort(scores[labels > 0.5]), np.sort(scores[labels <= 0.5])
    below = np.searchsorted(negative, positive, side="left").sum()
    at_most = np.searchsorted(negative, positive, side="right").sum()
    return float((below + at_most) / 2 / (len(positive) * len(negative)))
