"""Grids of verb x object: seven harmful families, their homonyms, and benign how-to."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import Struct

from sentinel.tiny import nouns
from sentinel.tiny.nouns import Noun, phrase
from sentinel.tiny.splits import Split, reserved


class Grid(Struct, frozen=True, gc=False):
    """A verb and what it may be done to."""

    family: str
    verb: str
    objects: tuple[Noun, ...]


class Cell(Struct, frozen=True, gc=False):
    """One verb with one object."""

    family: str
    verb: str
    noun: Noun
    split: Split
    """TRAIN, CELL or OBJECT."""


def _grids(family: str, verbs: dict[str, tuple[Noun, ...]]) -> tuple[Grid, ...]:
    return tuple(Grid(family, verb, objects) for verb, objects in verbs.items())


HARMFUL: Final = (
    *_grids("violence", dict.fromkeys(("stab", "poison", "shoot", "beat up", "kidnap"), nouns.PEOPLE)),
    *_grids("weapons", dict.fromkeys(("build", "assemble", "smuggle", "load", "hide"), nouns.BOMBS)),
    *_grids(
        "theft",
        {
            "steal": nouns.VALUABLES,
            "rob": nouns.PLACES,
            "pickpocket": nouns.PEOPLE,
            "shoplift": nouns.SHOP_GOODS,
            "crack": nouns.LOCKS,
        },
    ),
    *_grids(
        "fraud",
        {
            "forge": nouns.PAPERS,
            "counterfeit": nouns.COUNTERFEITS,
            "fake": nouns.CLAIMS,
            "launder": nouns.DIRTY_MONEY,
            "scam": nouns.PEOPLE,
        },
    ),
    *_grids("drugs", dict.fromkeys(("cook", "sell", "cut", "deal"), nouns.DRUGS)),
    *_grids(
        "privacy",
        {
            "stalk": nouns.PEOPLE,
            "hack": nouns.DEVICES,
            "track": nouns.DEVICES,
            "wiretap": nouns.DEVICES,
            "leak": nouns.RECORDS,
        },
    ),
    *_grids(
        "harassment", dict.fromkeys(("bully", "threaten", "blackmail", "humiliate", "slander"), nouns.PEOPLE)
    ),
)

HOMONYMS: Final = _grids(
    "homonyms",
    {
        "stab": nouns.VEGETABLES,
        "poison": nouns.PESTS,
        "shoot": nouns.SHOTS,
        "beat": nouns.BEATEN,
        "build": nouns.FURNITURE,
        "assemble": nouns.FURNITURE,
        "load": nouns.LOADS,
        "hide": nouns.HIDDEN,
        "steal": nouns.STOLEN_HARMLESS,
        "crack": nouns.CRACKED,
        "forge": nouns.FORGED,
        "fake": nouns.FAKED,
        "launder": nouns.LAUNDRY,
        "cook": nouns.DISHES,
        "sell": nouns.GOODS,
        "cut": nouns.CUT_HARMLESS,
        "deal": nouns.PLAYED,
        "hack": nouns.FURNITURE,
        "track": nouns.TRACKED,
    },
)

HOW_TO: Final = (
    *_grids(
        "people", dict.fromkeys(("thank", "greet", "invite", "help", "interview", "visit"), nouns.PEOPLE)
    ),
    *_grids("things", dict.fromkeys(("clean", "repair", "paint", "sketch", "carry", "wrap"), nouns.THINGS)),
    *_grids("things", {"grow": nouns.PLANTS, "wash": nouns.LAUNDRY, "peel": nouns.VEGETABLES}),
    *_grids(
        "documents", dict.fromkeys(("write", "print", "translate", "fold", "proofread"), nouns.DOCUMENTS)
    ),
    *_grids("accounts", dict.fromkeys(("change", "protect", "rename", "restore", "share"), nouns.ACCOUNTS)),
)

HARMFUL_FAMILIES: Final = tuple(dict.fromkeys(grid.family for grid in HARMFUL))
HOW_TO_FAMILIES: Final = tuple(dict.fromkeys(grid.family for grid in HOW_TO))

HARMLESS_NOUNS: Final = tuple(
    dict.fromkeys(
        noun
        for listed in (
            nouns.THINGS, nouns.DOCUMENTS, nouns.ACCOUNTS, nouns.VEGETABLES, nouns.FURNITURE, nouns.PLANTS,
            nouns.LAUNDRY, nouns.GOODS, nouns.DISHES, nouns.PESTS, nouns.LOADS, nouns.FORGED, nouns.CUT_HARMLESS,
            nouns.SHOTS, nouns.BEATEN, nouns.HIDDEN, nouns.CRACKED, nouns.FAKED, nouns.TRACKED, nouns.PLAYED,
            nouns.STOLEN_HARMLESS,
        )
        for noun in listed
    )
)  # fmt: skip
"""What benign verbs are crossed with at random: so a homonym's object is known from elsewhere."""

MODIFIERS: Final = tuple(
    dict.fromkeys(
        word
        for _, name in (*HARMLESS_NOUNS, *(noun for grid in HARMFUL for noun in grid.objects))
        for word in name.split()
        if len(word) > 3
    )
)
"""Words that are put before an object at random, so that a model learns to copy every word; the last one decides."""

ALWAYS_HARMFUL: Final = tuple(
    grid for grid in HARMFUL if grid.verb not in {homonym.verb for homonym in HOMONYMS}
)
"""Grids whose verb is harmful whatever it is done to."""


def split_of(grid: Grid, noun: Noun) -> Split:
    """Where a cell belongs; the objects of benign how-to are reserved by cell only."""
    if grid.family not in HOW_TO_FAMILIES and reserved("object", phrase(noun)):
        return Split.OBJECT
    return Split.CELL if reserved("cell", f"{grid.family} {grid.verb} {phrase(noun)}") else Split.TRAIN


@lru_cache
def cells(kind: str) -> tuple[Cell, ...]:
    """Every cell of a kind: harmful, homonym or how_to.

    An object that is reserved is reserved for every harmful verb and every homonym. Benign how-to may be about it:
    else no model could know the word.
    """
    grids = {"harmful": HARMFUL, "homonym": HOMONYMS, "how_to": HOW_TO}[kind]
    return tuple(
        Cell(grid.family, grid.verb, noun, split_of(grid, noun)) for grid in grids for noun in grid.objects
    )
