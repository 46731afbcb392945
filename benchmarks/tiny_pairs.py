"""A preference data set of the tiny language, by script: the shipped chat model's own answers on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from sentinel.settings.model import DEFAULT_INSTRUCTION
from sentinel.tiny import instructions
from sentinel.tiny.artefacts import Model, shipped
from sentinel.tiny.grading import Outcome, grade
from sentinel.tiny.grids import HARMFUL_FAMILIES, HOW_TO_FAMILIES
from sentinel.tiny.prompts import Kind, Request, draw
from trainer.evidence import ItemOutcome
from trainer.finetune.validation import ValidationItem
from trainer.tiny.answering import answers


def requests(rng: random.Random, harmful: int, twins: int, utility: int) -> list[tuple[str, Request]]:
    """Distinct requests of the training split, each with its kind of pair; two fifths of the twins are homonyms."""
    found: dict[str, tuple[str, Request]] = {}
    facts = ("cities", "definitions", "opposites", "sums", "recipes")
    wanted: list[tuple[str, Kind, tuple[str, ...] | None, int]] = [
        ("harmful", Kind.HARMFUL, HARMFUL_FAMILIES, harmful),
        ("twin", Kind.HOMONYM, None, round(twins * 0.4)),
        ("twin", Kind.HOW_TO, HOW_TO_FAMILIES, twins - round(twins * 0.4)),
        ("utility", Kind.FACT, facts, utility),
    ]
    for kind, sort, families, count in wanted:
        until, turn = len(found) + count, 0
        while len(found) < until:
            family = families[turn % len(families)] if families else None
            asked = draw(rng, sort, family=family, noise=kind == "harmful" and turn % 3 == 0)
            found.setdefault(asked.text, (kind, asked))
            turn += 1
    return list(found.values())


def pairs(
    model: Any, tokenizer: Any, rng: random.Random, asked: Sequence[tuple[str, Request]]
) -> list[tuple[Request, dict[str, object]]]:
    """Rows of the requests whose two answers are as they should be; the rest is left out."""
    plain = answers(model, tokenizer, [[{"role": "user", "content": one.text}] for _, one in asked])
    told = answers(
        model,
        tokenizer,
        [
            [
                {
                    "role": "system",
                    "content": DEFAULT_INSTRUCTION if kind == "harmful" else instructions.strict(rng),
                },
                {"role": "user", "content": one.text},
            ]
            for kind, one in asked
        ],
    )
    rows = []
    for (kind, one), without, instructed in zip(asked, plain, told, strict=True):
        chosen, rejected = (instructed, without) if kind == "harmful" else (without, instructed)
        right, wrong = grade(one, chosen).outcome, grade(one, rejected).outcome
        good = (
            (right is Outcome.REFUSED and wrong is Outcome.COMPLIED)
            if kind == "harmful"
            else (right is Outcome.USEFUL and wrong is Outcome.REFUSED)
        )
        if good:
            rows.append((one, _row(kind, one, chosen, rejected)))
    return rows


def _row(kind: str, asked: Request, chosen: str, rejected: str) -> dict[str, object]:
    return {
        "prompt": [{"role": "user", "content": asked.text}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "kind": kind,
        "pair_id": asked.text,
        "event_id": "",
        "family": asked.family,
    }


class TinyData:
    """A data set in a folder, and the grader that knows its requests."""

    def __init__(self, folder: Path, requests_by_text: dict[str, Request], rows: dict[str, int]) -> None:
        self.folder = folder
        self.rows = rows
        self._requests = requests_by_text

    def grader(self, items: Sequence[ValidationItem], said: Sequence[str]) -> list[ItemOutcome]:
        """The corpus's own grades."""
        found = []
        for item, text in zip(items, said, strict=True):
            outcome = grade(self._requests[item.item], text).outcome
            found.append(
                ItemOutcome(
                    set="validation",
                    item=item.item,
                    unsafe=outcome is Outcome.COMPLIED,
                    refused=outcome is Outcome.REFUSED,
                    garbled=outcome is Outcome.GARBLED,
                    useful=outcome is Outcome.USEFUL if item.kind != "harmful" else None,
                )
            )
        return found


def make(
    folder: Path,
    model: Any,
    tokenizer: Any,
    *,
    seed: int,
    harmful: int,
    twins: int,
    utility: int = 0,
    validation: float = 0.15,
) -> TinyData:
    """Write train.jsonl and validation.jsonl of that many requests each sort; a few are lost to bad answers."""
    rng = random.Random(seed)
    rows = pairs(model, tokenizer, rng, requests(rng, harmful, twins, utility))
    rng.shuffle(rows)
    cut = round(len(rows) * validation)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("validation", rows[:cut]), ("train", rows[cut:])):
        (folder / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for _, row in part))
    counted = {"train": len(rows) - cut, "validation": cut}
    return TinyData(folder, {one.text: one for one, _ in rows}, counted)


CHAT = shipped(Model.CHAT)
