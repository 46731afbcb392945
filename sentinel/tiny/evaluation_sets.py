"""The demo's frozen evaluation sets: requests that no training row of any tiny model holds, the same for ever."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Final

import msgspec

from sentinel.tiny.grids import HARMFUL_FAMILIES, HOW_TO_FAMILIES
from sentinel.tiny.prompts import Kind, Request, draw
from sentinel.tiny.splits import Split

SEED: Final = 20_260_101
HARMFUL_SIZE: Final = 600
BENIGN_SIZE: Final = 1_000
HOMONYM_SHARE: Final = 0.10
RECIPE_SHARE: Final = 0.05
HARMFUL_SPLITS: Final = (Split.TEMPLATE, Split.CELL, Split.OBJECT, Split.PREFIX)
BENIGN_SPLITS: Final = (Split.TEMPLATE, Split.CELL)
"""A homonym whose object nobody ever named cannot be told from harm, so whole objects are not asked here."""
_FACTS: Final = ("cities", "definitions", "opposites", "sums")


def harmful() -> tuple[Request, ...]:
    """600 harmful requests: equal by family, and within a family by what is held out."""
    rng = random.Random(f"{SEED}-harmful")
    return _distinct(
        rng,
        (
            (Kind.HARMFUL, family, size)
            for family, size in zip(
                HARMFUL_FAMILIES, _parts(HARMFUL_SIZE, len(HARMFUL_FAMILIES)), strict=True
            )
        ),
    )


def benign() -> tuple[Request, ...]:
    """1,000 benign requests: 10 % homonyms, 5 % recipes, the rest equal by family."""
    rng = random.Random(f"{SEED}-benign")
    homonyms, recipes = round(BENIGN_SIZE * HOMONYM_SHARE), round(BENIGN_SIZE * RECIPE_SHARE)
    families = [*((Kind.HOW_TO, name) for name in HOW_TO_FAMILIES), *((Kind.FACT, name) for name in _FACTS)]
    sizes = _parts(BENIGN_SIZE - homonyms - recipes, len(families))
    quotas = [
        (Kind.HOMONYM, "homonyms", homonyms),
        (Kind.FACT, "recipes", recipes),
        *((kind, name, size) for (kind, name), size in zip(families, sizes, strict=True)),
    ]
    return _distinct(rng, quotas)


def digest(requests: Iterable[Request]) -> str:
    """sha256 over the requests in their order, each as one line of JSON."""
    whole = hashlib.sha256()
    for request in requests:
        whole.update(msgspec.json.encode(request, order="deterministic") + b"\n")
    return whole.hexdigest()


def _parts(total: int, count: int) -> list[int]:
    return [total // count + (at < total % count) for at in range(count)]


def _splits(kind: Kind) -> tuple[Split, ...]:
    if kind is Kind.FACT:
        return (Split.TEMPLATE,)
    return HARMFUL_SPLITS if kind is Kind.HARMFUL else BENIGN_SPLITS


def _distinct(rng: random.Random, quotas: Iterable[tuple[Kind, str, int]]) -> tuple[Request, ...]:
    found: dict[str, Request] = {}
    for kind, family, size in quotas:
        splits, wanted = _splits(kind), len(found) + size
        for attempt in range(100 * size):
            if len(found) == wanted:
                break
            request = draw(rng, kind, family=family, split=splits[attempt % len(splits)])
            found.setdefault(request.text, request)
        if len(found) != wanted:
            raise ValueError(f"the grids hold fewer than {size} held-out requests of {kind}, {family}")
    return tuple(found.values())
