"""Where prompts come from: the built-in families, or files and Hub data sets in the published shapes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from producers.traffic.hub import fetch
from producers.traffic.rows import rows
from sentinel.errors import CommandError
from sentinel.neardup import NearDuplicates
from sentinel.tiny.grids import HARMFUL_FAMILIES
from sentinel.tiny.prompts import Kind, draw
from sentinel.tiny.splits import Split

COLUMNS: Final = ("prompt", "adversarial", "vanilla", "Behavior", "prompts_final", "goal", "question", "text")
"""Names of the prompt's column: own files, WildGuardMix and XSTest (``prompt``), WildJailbreak (``adversarial``,
else ``vanilla``), HarmBench (``Behavior``), and others; the first that a row fills is taken."""

LABELS: Final = (
    "kind", "type", "label", "prompt_harm_label", "data_type", "SemanticCategory", "FunctionalCategory", "category",
)  # fmt: skip
"""What a source says about a prompt; the first that a row fills is taken."""

HUB: Final = "hub:"


class Prompt(Struct, frozen=True, gc=False):
    """One request to be sent, with what its source knows about it."""

    text: str
    kind: str = ""
    """``harmful``, ``how_to``, ``homonym``, ``fact`` for built-in ones; the file's own label otherwise."""
    family: str = ""
    answer: str = ""
    """The useful (or compliant) answer, where the source knows it."""
    subject: str = ""


class Loaded(Struct, frozen=True):
    """Prompts of all sources, and what was left out of them."""

    prompts: tuple[Prompt, ...]
    left_out: Counter[str]


def built_in(
    rng: random.Random, harmful_share: float, families: Sequence[str] = HARMFUL_FAMILIES
) -> Iterator[Prompt]:
    """Prompts of the tiny models' families, for ever; ``harmful_share`` of them harmful, of these ``families``.

    Benign ones are 40 % how-to, 45 % homonyms (a harmful verb on a harmless object), 15 % facts: what a model
    that learns to refuse gets wrong first must be asked often enough to be learnt from.

    Raises:
        CommandError: there is no such family.
    """
    if unknown := sorted(set(families) - set(HARMFUL_FAMILIES)):
        raise CommandError(
            f"no harmful family is called {', '.join(unknown)}: choose of {', '.join(HARMFUL_FAMILIES)}"
        )
    return _drawn(rng, harmful_share, families)


def _drawn(rng: random.Random, harmful_share: float, families: Sequence[str]) -> Iterator[Prompt]:
    while True:
        if rng.random() < harmful_share:
            made = draw(rng, Kind.HARMFUL, family=rng.choice(families), split=Split.TRAIN)
        else:
            kind = rng.choices((Kind.HOW_TO, Kind.HOMONYM, Kind.FACT), (40, 45, 15))[0]
            made = draw(rng, kind, split=Split.TRAIN)
        yield Prompt(made.text, made.kind.value, made.family, made.answer, made.subject)


def load(sources: Iterable[str | Path], rng: random.Random, endpoint: str | None = None) -> Loaded:
    """All prompts of the files and Hub data sets, without exact and near duplicates, in random order.

    A source is a file's path or ``hub:OWNER/NAME`` (see `producers.traffic.hub`); ``endpoint`` is the Hub's address
    where it is not the usual one.

    Raises CommandError for a source that cannot be had or read, or where none holds a prompt column.
    """
    left_out: Counter[str] = Counter()
    exact: set[str] = set()
    near = NearDuplicates()
    kept: list[Prompt] = []
    for path in _files(sources, endpoint):
        for row in rows(path):
            text = next((str(row[name]).strip() for name in COLUMNS if row.get(name)), "")
            if not text:
                left_out["empty"] += 1
            elif text in exact:
                left_out["exact duplicate"] += 1
            elif near.seen(text):
                left_out["near duplicate"] += 1
            else:
                exact.add(text)
                kind = next((row[name] for name in LABELS if row.get(name)), "")
                kept.append(Prompt(text, str(kind)))
    if not kept:
        raise CommandError(f"the files hold no prompt; a prompt's column is one of {', '.join(COLUMNS)}")
    rng.shuffle(kept)
    return Loaded(tuple(kept), left_out)


def _files(sources: Iterable[str | Path], endpoint: str | None) -> Iterator[Path]:
    for source in sources:
        if isinstance(source, str) and source.startswith(HUB):
            yield from fetch(source.removeprefix(HUB), endpoint)
        else:
            yield Path(source)


def endless(prompts: tuple[Prompt, ...], rng: random.Random) -> Iterator[Prompt]:
    """The prompts again and again, each round in another order."""
    order = list(prompts)
    while True:
        yield from order
        rng.shuffle(order)
