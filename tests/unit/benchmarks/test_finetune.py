"""What the fine-tuning benchmark counts, and the requests that it draws."""

from __future__ import annotations

import random

from benchmarks import finetune
from benchmarks.tiny_pairs import requests
from sentinel.tiny import evaluation_sets
from sentinel.tiny.grids import HARMFUL_FAMILIES


def test_a_step_is_from_one_mark_to_the_next() -> None:
    clock = finetune.Clock()
    clock.marks = {1: 0.0, 2: 9.0, 3: 18.0, 4: 18.2, 5: 18.4, 7: 30.0}
    # The first steps fill caches, and step 6 left no mark.
    assert round(clock.median_ms()) == 200


def test_pairs_are_drawn_apart_from_the_frozen_sets() -> None:
    asked = requests(random.Random(5), harmful=70, twins=50, utility=20)
    kinds = [kind for kind, _ in asked]
    assert [kinds.count(kind) for kind in ("harmful", "twin", "utility")] == [70, 50, 20]
    assert {one.family for kind, one in asked if kind == "harmful"} == set(HARMFUL_FAMILIES)
    texts = {one.text for _, one in asked}
    assert len(texts) == 140
    assert not texts & {one.text for one in (*evaluation_sets.harmful(), *evaluation_sets.benign())}
