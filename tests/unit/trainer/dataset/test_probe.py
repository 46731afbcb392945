"""The probe finds a planted shortcut, and none where the sides are drawn alike."""

from __future__ import annotations

import random
from uuid import UUID

import numpy as np
import pytest

from sentinel.events import Message
from trainer.dataset.probe import auroc, probe
from trainer.dataset.rows import Row, RowKind

VOCABULARY = [f"word{n}" for n in range(120)]


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(VOCABULARY, k=rng.randint(5, 15)))


def rows_of(count: int, chosen_prefix: str = "", longer: int = 0) -> list[Row]:
    rng = random.Random(7)
    return [
        Row(
            kind=RowKind.HARMFUL, row_id=UUID(int=at), prompt=(Message("user", text(rng)),),
            chosen=f"{chosen_prefix}{text(rng)}" + " again" * 0 + "".join(f" {rng.choice(VOCABULARY)}" for _ in
            range(longer)), rejected=text(rng), family="f", event_id=None,
        )
        for at in range(count)
    ]  # fmt: skip


def test_sides_that_are_drawn_alike_are_not_told_apart() -> None:
    found = probe(rows_of(150), range(150), warn_at=0.95, seed=1)
    assert found.auroc is not None
    assert 0.35 < found.auroc < 0.65
    assert not found.warning
    assert set(found.by_features) == {"length", "first_words", "bag_of_words"}


@pytest.mark.parametrize(
    ("planted", "feature"), [({"chosen_prefix": "Sorry but "}, "first_words"), ({"longer": 30}, "length")]
)
def test_a_planted_shortcut_is_found_and_named(planted: dict[str, int], feature: str) -> None:
    found = probe(rows_of(150, **planted), range(150), warn_at=0.95, seed=1)  # type: ignore[arg-type]
    assert found.auroc is not None
    assert found.auroc > 0.97
    assert found.warning
    assert found.by_features[feature] > 0.97


def test_what_twins_contradict_is_no_shortcut() -> None:
    """Refusals on both sides alike: beginning with Sorry says nothing any more."""
    harmful = rows_of(150, "Sorry but ")
    twins = [
        Row(
            kind=RowKind.TWIN, row_id=UUID(int=1000 + at), prompt=row.prompt, chosen=row.rejected,
            rejected=row.chosen, family="benign", event_id=None,
        )
        for at, row in enumerate(harmful)
    ]  # fmt: skip
    found = probe([*harmful, *twins], [*range(150), *range(150)], warn_at=0.95, seed=1)
    assert found.auroc is not None
    assert found.auroc < 0.6


def test_a_group_is_never_on_both_sides_of_a_fold() -> None:
    """Fifteen pairs, each twenty times: by rows they could be learned by heart."""
    rows = rows_of(15) * 20
    found = probe(rows, list(range(15)) * 20, warn_at=0.95, seed=1)
    assert found.auroc is not None
    assert found.auroc < 0.8


def test_too_few_groups_are_not_measured() -> None:
    found = probe(rows_of(30), [0, 1, 2] * 10, warn_at=0.95, seed=1)
    assert (found.auroc, found.warning) == (None, False)


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([3.0, 2.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])) == 1.0
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])) == 0.5
    assert auroc(np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0])) == 0.25
