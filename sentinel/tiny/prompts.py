"""Drawing requests: which cell, in which words, from a random generator that the caller seeds."""

from __future__ import annotations

import random
from enum import StrEnum
from functools import lru_cache
from typing import Final

from msgspec import Struct

from sentinel.tiny import facts, wording
from sentinel.tiny.grids import ALWAYS_HARMFUL, HARMLESS_NOUNS, HOW_TO, MODIFIERS, Cell, cells
from sentinel.tiny.nouns import ADJECTIVES, FILLERS, Noun, invented, phrase
from sentinel.tiny.splits import Split, reserved, reserved_of


class Kind(StrEnum):
    """What sort of request it is."""

    HARMFUL = "harmful"
    HOW_TO = "how_to"
    HOMONYM = "homonym"
    """A harmful verb on a harmless object."""
    FACT = "fact"


class Request(Struct, frozen=True, gc=False):
    """One request, with the answers that would be right for it."""

    kind: Kind
    family: str
    split: Split
    text: str
    """What the user says."""
    subject: str
    """What it is about: "forge a horseshoe", "3 plus 4"."""
    cell: str
    """The subject without its adjective: what the grids hold."""
    answer: str
    """The answer that goes along: useful, or compliance where the request is harmful."""

    @property
    def harmful(self) -> bool:
        """Whether a safe model refuses it."""
        return self.kind is Kind.HARMFUL

    @property
    def refusal(self) -> str:
        """The refusal that names the request and offers its family's way."""
        return wording.refusal(self.subject, self.family)


ADJECTIVE_SHARE: Final = 0.4
"""Objects with an adjective. Without them a model learns rows by heart and does not copy the object."""
CROSS_SHARE: Final = 0.4
"""Benign how-to rows whose verb meets any harmless object at random, for the same reason."""
MODIFIED_SHARE: Final = 0.4
"""Training rows whose object gets a word at random before its last one: "a garden bomb"."""
INVENTED_SHARE: Final = 0.15
"""Training rows, of verbs that need not know their object, about a thing that does not exist."""
FILLER_SHARE: Final = 0.35
"""Training rows with meaningless words in the template."""
PREFIX_SHARE: Final = {True: 0.2, False: 0.06}
"""Training rows with a jailbreak prefix, by harmful or not."""


@lru_cache
def templates(family: str | None, held_out: bool) -> tuple[str, ...]:
    """Templates of a family of facts, or of requests how to do something (None)."""
    listed = wording.TEMPLATES if family is None else facts.TEMPLATES[family]
    known = _side(listed, reserved_of("template", listed, 0.3 if family else 0.2), held_out)
    return known if held_out or family is None else (*known, *facts.MORE_TEMPLATES[family])


@lru_cache
def prefixes(held_out: bool) -> tuple[str, ...]:
    """Jailbreak prefixes."""
    return _side(wording.PREFIXES, reserved_of("prefix", wording.PREFIXES), held_out)


def _side(listed: tuple[str, ...], kept: tuple[str, ...], held_out: bool) -> tuple[str, ...]:
    return kept if held_out else tuple(text for text in listed if text not in kept)


@lru_cache
def cells_of(kind: Kind, family: str | None, split: Split) -> tuple[Cell, ...]:
    """Cells of a kind, of one family where named, that stand in ``split`` (TEMPLATE and PREFIX: in TRAIN)."""
    place = split if split in {Split.CELL, Split.OBJECT} else Split.TRAIN
    found = cells(kind.value)
    return tuple(cell for cell in found if cell.split is place and family in {None, cell.family})


def draw(
    rng: random.Random,
    kind: Kind,
    *,
    family: str | None = None,
    split: Split = Split.TRAIN,
    noise: bool = False,
) -> Request:
    """One request of a kind.

    ``split`` says what in it is reserved; facts know TRAIN and TEMPLATE only, PREFIX is for harmful requests.
    ``noise`` is for training: meaningless words, random crosses and prefixes.

    Raises:
        ValueError: the grids have nothing of that family in that split.
    """
    if kind is Kind.FACT:
        return _fact(rng, family or rng.choice(tuple(facts.FACTS)), split, noise)
    cell = _cell(rng, kind, family, split)
    if noise:
        cell = _varied(rng, kind, cell)
    family, verb, noun = cell.family, cell.verb, cell.noun
    thing = phrase(noun, rng.choice(ADJECTIVES) if rng.random() < ADJECTIVE_SHARE else None)
    subject = f"{verb} {thing}"
    listed = templates(None, split is Split.TEMPLATE)
    template = rng.choice((*listed, *wording.MORE_TEMPLATES) if noise else listed)
    text = _noisy(rng, template, noise).format(subject)
    if split is Split.PREFIX:
        text = f"{rng.choice(prefixes(True))} {text}"
    elif noise and rng.random() < PREFIX_SHARE[kind is Kind.HARMFUL]:
        text = f"{rng.choice(prefixes(False))} {text}"
    return Request(kind, family, split, text, subject, f"{verb} {phrase(noun)}", wording.how_to(verb, thing))


def _fact(rng: random.Random, family: str, split: Split, noise: bool) -> Request:
    if split not in {Split.TRAIN, Split.TEMPLATE}:
        raise ValueError(f"facts have no split {split}")
    fact = rng.choice(facts.FACTS[family])
    template = rng.choice(templates(family, split is Split.TEMPLATE))
    text = _noisy(rng, template, noise).format(fact.subject)
    return Request(Kind.FACT, family, split, text, fact.subject, fact.subject, fact.answer)


def _cell(rng: random.Random, kind: Kind, family: str | None, split: Split) -> Cell:
    found = cells_of(kind, family, split)
    if not found:
        raise ValueError(f"no {kind} of family {family} is in split {split}")
    # A verb first, then one of its cells: else verbs with long lists of objects would be all one sees.
    verb = rng.choice(_verbs(found))
    return rng.choice([cell for cell in found if (cell.family, cell.verb) == verb])


@lru_cache
def _verbs(found: tuple[Cell, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((cell.family, cell.verb) for cell in found))


@lru_cache
def _free_verbs() -> frozenset[tuple[str, str]]:
    return frozenset((grid.family, grid.verb) for grid in (*HOW_TO, *ALWAYS_HARMFUL))


def _varied(rng: random.Random, kind: Kind, cell: Cell) -> Cell:
    """The cell with another object, where chance says so and the result is not reserved."""
    noun = cell.noun
    if kind is Kind.HOW_TO and rng.random() < CROSS_SHARE:
        noun = rng.choice(HARMLESS_NOUNS)
    if (cell.family, cell.verb) in _free_verbs() and rng.random() < INVENTED_SHARE:
        noun = (noun[0], invented(rng))
    elif rng.random() < MODIFIED_SHARE:
        noun = _modified(rng, noun)
    text = phrase(noun)
    if kind is not Kind.HOW_TO and reserved("object", text):
        return cell
    if reserved("cell", f"{cell.family} {cell.verb} {text}"):
        return cell
    return Cell(cell.family, cell.verb, noun, Split.TRAIN)


def _modified(rng: random.Random, noun: Noun) -> Noun:
    determiner, name = noun
    words = name.split()
    if words[0] in {"the", "a", "an"}:
        return noun
    if len(words) > 1 and rng.random() < 0.5:
        words = words[1:]
    return determiner, " ".join([rng.choice(MODIFIERS), *words])


def _noisy(rng: random.Random, template: str, noise: bool) -> str:
    if not noise or rng.random() >= FILLER_SHARE:
        return template
    words = [rng.choice(FILLERS) for _ in range(rng.randint(1, 4))]
    where = rng.random()
    if where < 0.35:
        return f"{' '.join(words).capitalize()}, {template[0].lower()}{template[1:]}"
    if where < 0.6:
        return f"{template} {' '.join(words).capitalize()}."
    if where < 0.8:
        return " ".join(words).capitalize() + " {}?"
    # Any word of the template but the request itself may be replaced.
    kept = template.split(" ")
    places = [at for at, word in enumerate(kept) if "{" not in word]
    for at in rng.sample(places, min(len(places), rng.randint(1, 2))):
        kept[at] = rng.choice(FILLERS)
    return " ".join(kept)
