"""Where prompts come from: the built-in families, or files in the shapes of the published prompt sets."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson
from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.neardup import NearDuplicates
from sentinel.tiny.prompts import Kind, draw
from sentinel.tiny.splits import Split

COLUMNS: Final = ("prompt", "adversarial", "vanilla", "Behavior", "prompts_final", "goal", "question", "text")
"""Names of the prompt's column: own files, WildGuardMix and XSTest (``prompt``), WildJailbreak (``adversarial``,
else ``vanilla``), HarmBench (``Behavior``), and others; the first that a row fills is taken."""


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
    """Prompts of files, and what was left out of them."""

    prompts: tuple[Prompt, ...]
    left_out: Counter[str]


def built_in(rng: random.Random, harmful_share: float) -> Iterator[Prompt]:
    """Prompts of the tiny models' families, for ever; ``harmful_share`` of them harmful.

    Benign ones are 70 % how-to, 15 % homonyms (a harmful verb on a harmless object), 15 % facts.
    """
    while True:
        if rng.random() < harmful_share:
            kind = Kind.HARMFUL
        else:
            kind = rng.choices((Kind.HOW_TO, Kind.HOMONYM, Kind.FACT), (70, 15, 15))[0]
        made = draw(rng, kind, split=Split.TRAIN)
        yield Prompt(made.text, made.kind.value, made.family, made.answer, made.subject)


def load(paths: Iterable[Path], rng: random.Random) -> Loaded:
    """All prompts of the files, without exact and near duplicates, in random order.

    Raises CommandError for a file that cannot be read or holds no prompt column.
    """
    left_out: Counter[str] = Counter()
    exact: set[str] = set()
    near = NearDuplicates()
    kept: list[Prompt] = []
    for path in paths:
        for row in _rows(path):
            text = next((str(row[name]).strip() for name in COLUMNS if row.get(name)), "")
            if not text:
                left_out["empty"] += 1
            elif text in exact:
                left_out["exact duplicate"] += 1
            elif near.seen(text):
                left_out["near duplicate"] += 1
            else:
                exact.add(text)
                kept.append(Prompt(text, str(row.get("kind") or row.get("type") or row.get("label") or "")))
    if not kept:
        raise CommandError(f"the files hold no prompt; a prompt's column is one of {', '.join(COLUMNS)}")
    rng.shuffle(kept)
    return Loaded(tuple(kept), left_out)


def endless(prompts: tuple[Prompt, ...], rng: random.Random) -> Iterator[Prompt]:
    """The prompts again and again, each round in another order."""
    order = list(prompts)
    while True:
        yield from order
        rng.shuffle(order)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        raise CommandError(
            f"{path} is not there: fetch the set yourself, where its licence or a gate asks for it, then name its file"
        )
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)
            return
        text = path.read_bytes()
        if path.suffix == ".json":
            rows = orjson.loads(text)
            yield from (row if isinstance(row, dict) else {"prompt": row} for row in rows)
            return
        for line in text.splitlines():
            if line.strip():
                row = orjson.loads(line)
                yield row if isinstance(row, dict) else {"prompt": row}
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read as {path.suffix or 'JSONL'}: {error}") from error
