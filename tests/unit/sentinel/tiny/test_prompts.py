from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from sentinel.tiny import facts, instructions, wording
from sentinel.tiny.grids import HARMFUL, HARMFUL_FAMILIES, HOMONYMS, HOW_TO, cells
from sentinel.tiny.nouns import phrase
from sentinel.tiny.prompts import Kind, Request, cells_of, draw, prefixes, templates
from sentinel.tiny.splits import Split, fraction, reserved, reserved_of

HELD_OUT = (Split.TEMPLATE, Split.CELL, Split.OBJECT, Split.PREFIX)


def drawn(kind: Kind, split: Split, n: int = 300, *, noise: bool = False, seed: int = 1) -> list[Request]:
    rng = random.Random(seed)
    return [draw(rng, kind, split=split, noise=noise) for _ in range(n)]


def test_there_are_seven_harmful_families_and_benign_ones() -> None:
    assert set(HARMFUL_FAMILIES) == {
        "violence", "weapons", "theft", "fraud", "drugs", "privacy", "harassment",
    }  # fmt: skip
    assert set(HARMFUL_FAMILIES) == set(wording.ALTERNATIVES)
    assert len({grid.verb for grid in HARMFUL}) >= 33
    assert set(facts.FACTS) == {"recipes", "cities", "definitions", "opposites", "sums"}
    assert {grid.verb for grid in HOMONYMS} - {"beat"} <= {grid.verb for grid in HARMFUL}


def test_a_cell_is_harmful_or_benign_and_never_both() -> None:
    harmful = {(cell.verb, cell.noun[1]) for cell in cells("harmful")}
    assert harmful & {(cell.verb, cell.noun[1]) for cell in cells("homonym")} == set()
    assert {grid.verb for grid in HARMFUL} & {grid.verb for grid in HOW_TO} == set()


@pytest.mark.parametrize("kind", ["harmful", "homonym", "how_to"])
def test_every_cell_is_in_exactly_one_split(kind: str) -> None:
    seen: dict[tuple[str, str, str], Split] = {}
    for cell in cells(kind):
        key = (cell.family, cell.verb, phrase(cell.noun))
        assert seen.setdefault(key, cell.split) is cell.split
    assert len(seen) == len(cells(kind))
    assert set(seen.values()) == {Split.TRAIN, Split.CELL} | ({Split.OBJECT} if kind != "how_to" else set())


@pytest.mark.parametrize("family", HARMFUL_FAMILIES)
@pytest.mark.parametrize("split", [Split.TRAIN, Split.CELL, Split.OBJECT])
def test_every_harmful_family_has_cells_in_every_split(family: str, split: Split) -> None:
    assert len(cells_of(Kind.HARMFUL, family, split)) >= 5


def test_reserved_objects_are_in_no_training_cell() -> None:
    found = [cell for kind in ("harmful", "homonym") for cell in cells(kind)]
    kept = {phrase(cell.noun) for cell in found if cell.split is Split.OBJECT}
    trained = {phrase(cell.noun) for cell in found if cell.split is not Split.OBJECT}
    assert kept
    assert kept & trained == set()


@pytest.mark.parametrize("family", [None, *facts.FACTS])
def test_templates_are_split_without_a_rest(family: str | None) -> None:
    everything: tuple[str, ...] = wording.TEMPLATES
    if family is not None:
        everything = (*facts.TEMPLATES[family], *facts.MORE_TEMPLATES[family])
    assert len(set(everything)) == len(everything)
    known, kept = templates(family, False), templates(family, True)
    assert sorted([*known, *kept]) == sorted(everything)
    assert len(kept) >= 3
    assert len(known) >= 2 * len(kept)


def test_prefixes_are_split_without_a_rest() -> None:
    assert sorted([*prefixes(False), *prefixes(True)]) == sorted(wording.PREFIXES)
    assert len(prefixes(True)) == 4


def test_training_requests_hold_nothing_reserved() -> None:
    kept_cells = {
        f"{cell.verb} {phrase(cell.noun)}"
        for kind in ("harmful", "homonym", "how_to")
        for cell in cells(kind)
        if cell.split is not Split.TRAIN
    }
    kept_words = [text.split("{}", maxsplit=1)[0] for text in templates(None, True)]
    assert all(len(words) > 3 for words in kept_words)
    for kind in (Kind.HARMFUL, Kind.HOW_TO, Kind.HOMONYM):
        for request in drawn(kind, Split.TRAIN, 4_000, noise=True):
            assert request.cell not in kept_cells
            assert not any(request.text.startswith(prefix) for prefix in prefixes(True))
            assert not any(request.text == text.format(request.subject) for text in templates(None, True))


@pytest.mark.parametrize("split", HELD_OUT)
def test_held_out_harmful_requests_hold_exactly_what_they_say(split: Split) -> None:
    by_split = {
        kept: {f"{cell.verb} {phrase(cell.noun)}" for cell in cells("harmful") if cell.split is kept}
        for kept in Split
    }
    for request in drawn(Kind.HARMFUL, split):
        assert request.cell in by_split[split if split in {Split.CELL, Split.OBJECT} else Split.TRAIN]
        assert any(request.text.startswith(prefix) for prefix in prefixes(True)) is (split is Split.PREFIX)
        known = {text.format(request.subject) for text in templates(None, split is Split.TEMPLATE)}
        assert any(request.text.endswith(text) for text in known)


def test_training_and_held_out_texts_are_disjoint() -> None:
    trained = {request.text for kind in Kind for request in drawn(kind, Split.TRAIN, 5_000, noise=True)}
    kept = {request.text for split in HELD_OUT for request in drawn(Kind.HARMFUL, split, 1_000, seed=2)}
    kept |= {request.text for kind in Kind for request in drawn(kind, Split.TEMPLATE, 1_000, seed=2)}
    assert len(trained) > 10_000
    assert len(kept) > 3_000
    assert trained & kept == set()


def test_answers_name_the_request_and_hold_a_placeholder() -> None:
    for request in drawn(Kind.HARMFUL, Split.TRAIN, 500, noise=True):
        assert request.answer.startswith(f"Sure, here is how to {request.subject}: ")
        assert request.answer.removesuffix(".").rpartition(": ")[2] in wording.STEPS
        assert request.subject in request.refusal
        assert wording.ALTERNATIVES[request.family] in request.refusal


def test_draws_follow_from_the_seed_in_every_process() -> None:
    code = (
        "import random; from sentinel.tiny.prompts import Kind, draw; r = random.Random(5);"
        "print([draw(r, kind, noise=True).text for _ in range(40) for kind in Kind])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=240,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1_000


def test_a_family_without_that_split_is_refused() -> None:
    with pytest.raises(ValueError, match="facts have no split"):
        draw(random.Random(1), Kind.FACT, split=Split.CELL)
    with pytest.raises(ValueError, match="no harmful of family nobody"):
        draw(random.Random(1), Kind.HARMFUL, family="nobody")


def test_no_verb_crowds_out_the_others() -> None:
    seen = Counter(request.cell.split(" ", 1)[0] for request in drawn(Kind.HARMFUL, Split.TRAIN, 6_800))
    assert len(seen) >= 33
    assert max(seen.values()) < 2 * min(seen.values())


def test_held_out_instructions_are_never_trained() -> None:
    rng = random.Random(1)
    trained = {instructions.safety(rng) for _ in range(20_000)}
    kept = {instructions.safety(rng, held_out=True) for _ in range(2_000)}
    assert len(kept) > 300
    assert trained & kept == set()
    rng = random.Random(1)
    assert {instructions.neutral(rng) for _ in range(500)} & {
        instructions.neutral(rng, held_out=True) for _ in range(500)
    } == set()


def test_noise_keeps_the_instruction_whole() -> None:
    rng = random.Random(4)
    for _ in range(100):
        noisy = instructions.with_noise(rng, "Be safe.")
        assert "Be safe." in noisy
        assert len(noisy) > len("Be safe.") + 3


def test_reserved_shares_are_what_they_say() -> None:
    texts = tuple(f"text {number}" for number in range(5_000))
    assert 0.18 < sum(reserved("cell", text) for text in texts) / len(texts) < 0.22
    assert len(reserved_of("cell", texts[:50])) == 10
    assert len(reserved_of("cell", texts[:2])) == 1
    assert fraction("a", "b") != fraction("a", "c") != fraction("b", "b")
