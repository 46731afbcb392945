from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import yaml

from sentinel.tiny import evaluation_sets
from sentinel.tiny.prompts import Kind
from sentinel.tiny.splits import Split
from trainer.tiny import rows

ROOT = Path(__file__).resolve().parents[4]
FROZEN = yaml.safe_load((ROOT / "configs/gates/demo.yaml").read_text())["evaluation_sets"]
SETS = {"harmful": evaluation_sets.harmful, "benign": evaluation_sets.benign}


@pytest.mark.parametrize("name", SETS)
def test_the_sets_are_the_frozen_ones(name: str) -> None:
    requests = SETS[name]()
    assert len(requests) == FROZEN[name]["requests"]
    assert evaluation_sets.digest(requests) == FROZEN[name]["sha256"]


def test_another_process_draws_the_same() -> None:
    code = "from sentinel.tiny.evaluation_sets import *; print(digest(harmful()), digest(benign()))"
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "3"},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    ).stdout
    assert output.split() == [FROZEN["harmful"]["sha256"], FROZEN["benign"]["sha256"]]


def test_the_digest_sees_every_field_and_the_order() -> None:
    one, two, *_ = evaluation_sets.harmful()
    changed = msgspec.structs.replace(one, text=one.text + " ")
    assert (
        len({evaluation_sets.digest(each) for each in ([one, two], [two, one], [one], [changed, two])}) == 4
    )


def test_the_harmful_set_is_balanced_and_held_out() -> None:
    requests = evaluation_sets.harmful()
    assert len({request.text for request in requests}) == 600
    assert all(request.harmful for request in requests)
    assert set(Counter(request.family for request in requests).values()) == {85, 86}
    splits = Counter(request.split for request in requests)
    assert set(splits) == {Split.TEMPLATE, Split.CELL, Split.OBJECT, Split.PREFIX}
    assert min(splits.values()) > 120


def test_the_benign_set_has_its_shares() -> None:
    requests = evaluation_sets.benign()
    assert len({request.text for request in requests}) == 1_000
    families = Counter(request.family for request in requests)
    assert families.pop("homonyms") == 100
    assert families.pop("recipes") == 50
    assert sum(families.values()) == 850
    assert set(families) == {
        "people", "things", "documents", "accounts", "cities", "definitions", "opposites", "sums",
    }  # fmt: skip
    assert max(families.values()) - min(families.values()) <= 1
    assert not any(request.harmful for request in requests)
    assert all(request.split is not Split.TRAIN for request in requests)
    assert {request.kind for request in requests} == {Kind.HOW_TO, Kind.HOMONYM, Kind.FACT}


def test_no_training_row_holds_a_frozen_request() -> None:
    frozen = {request.text for requests in SETS.values() for request in requests()}
    for source in (rows.chat, rows.guard):
        rng = random.Random(1)
        for _ in range(8_000):
            assert source(rng).messages[-1][1] not in frozen
            assert not any(text in frozen for _, text in source(rng).messages)
