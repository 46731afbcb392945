"""Rates on requests that training never saw: of the chat model by the corpus's graders, of guards by its labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from sentinel.events import Message
from sentinel.guards.base import GuardRequest
from sentinel.guards.qwen3guard import GRAMMAR
from sentinel.intervals import Rate, wilson
from sentinel.tiny import instructions
from sentinel.tiny.artefacts import Measured
from sentinel.tiny.evaluation_sets import HARMFUL_SPLITS
from sentinel.tiny.grading import Outcome, grade
from sentinel.tiny.grids import HARMFUL_FAMILIES
from sentinel.tiny.prompts import Kind, Request, draw
from sentinel.tiny.splits import Split
from sentinel.verdicts import Assessment, Label, Role
from trainer.tiny.answering import Conversation

Answer = Callable[[Sequence[Conversation]], list[str]]
"""A model: conversations in, answers out."""

NO_SYSTEM, HELD_OUT, PRODUCT = "no system prompt", "unseen safety instruction", "product's safety instruction"
STRICT = "unseen instruction to refuse everything"
CONDITIONS: Final = (NO_SYSTEM, HELD_OUT, PRODUCT, STRICT)


class Sample(Struct, frozen=True):
    """Held-out requests of one sort."""

    name: str
    requests: tuple[Request, ...]

    @property
    def harmful(self) -> bool:
        """Whether a safe model refuses these."""
        return self.requests[0].harmful


def samples(n: int, seed: int) -> tuple[Sample, ...]:
    """Requests of each sort: harmful by what is held out, benign by family. ``n`` are drawn, repeats dropped."""
    rng = random.Random(f"evaluation-{seed}")

    def several(kind: Kind, splits: Sequence[Split], families: Sequence[str | None]) -> tuple[Request, ...]:
        drawn = (
            draw(
                rng,
                kind,
                family=families[at % len(families)],
                split=splits[at // len(families) % len(splits)],
            )
            for at in range(n)
        )
        # The same request gets the same answer: counted twice it would narrow the interval and tell nothing.
        return tuple({one.text: one for one in drawn}.values())

    known: tuple[Split, ...] = (Split.TEMPLATE, Split.CELL)
    facts: tuple[Split, ...] = (Split.TEMPLATE,)
    return (
        *(
            Sample(f"harmful, unseen {split.value}", several(Kind.HARMFUL, (split,), HARMFUL_FAMILIES))
            for split in HARMFUL_SPLITS
        ),
        Sample("benign how-to", several(Kind.HOW_TO, known, (None,))),
        Sample("benign homonyms", several(Kind.HOMONYM, known, (None,))),
        Sample("recipes", several(Kind.FACT, facts, ("recipes",))),
        Sample("sums", several(Kind.FACT, facts, ("sums",))),
        Sample("other facts", several(Kind.FACT, facts, ("cities", "definitions", "opposites"))),
    )


def conversations(
    requests: Sequence[Request], condition: str, product_instruction: str, seed: int
) -> list[Conversation]:
    """The requests under one of `CONDITIONS`, as chat messages."""
    rng = random.Random(f"conditions-{seed}")
    made: list[Conversation] = []
    for request in requests:
        turns = [{"role": "user", "content": request.text}]
        if condition != NO_SYSTEM:
            if condition == PRODUCT:
                text = product_instruction
            elif condition == STRICT:
                text = instructions.strict(rng, held_out=True)
            else:
                text = instructions.safety(rng, held_out=True)
            turns.insert(0, {"role": "system", "content": text})
        made.append(turns)
    return made


def measure_chat(answer: Answer, n: int, seed: int, product_instruction: str) -> tuple[Measured, ...]:
    """The chat model's outcomes, up to ``n`` requests of each sort under each condition."""
    found = []
    for condition in CONDITIONS:
        for sample in samples(n, seed):
            said = answer(conversations(sample.requests, condition, product_instruction, seed))
            grades = [grade(*pair) for pair in zip(sample.requests, said, strict=True)]
            rates = {
                outcome.value: wilson(sum(one.outcome is outcome for one in grades), len(grades))
                for outcome in Outcome
                if outcome is not (Outcome.USEFUL if sample.harmful else Outcome.COMPLIED)
            }
            if sample.harmful:
                refused = [one for one in grades if one.outcome is Outcome.REFUSED]
                rates["right alternative, of refusals"] = wilson(
                    sum(one.right_alternative for one in refused), len(refused)
                )
            found.append(Measured(sample.name, condition, rates))
    return tuple(found)


def measure_guard(
    guard: Answer, chat: Answer, n: int, seed: int, product_instruction: str
) -> tuple[Measured, ...]:
    """A guard's verdicts, read by the product's own grammar, on prompts, answers and the chat model's output."""
    found = []
    for sample in samples(n, seed):
        label = Label.UNSAFE if sample.harmful else Label.SAFE
        found.append(_judged("prompt", sample.name, _ask(guard, Role.PROMPT, sample.requests), label))
        known = [request.answer for request in sample.requests]
        verdicts = _ask(guard, Role.RESPONSE, sample.requests, known)
        found.append(_judged("corpus answer", sample.name, verdicts, label, refusal=False))
        if sample.harmful:
            known = [request.refusal for request in sample.requests]
            verdicts = _ask(guard, Role.RESPONSE, sample.requests, known)
            found.append(_judged("corpus refusal", sample.name, verdicts, Label.SAFE, refusal=True))
    for condition in (NO_SYSTEM, PRODUCT):
        found += _own_output(guard, chat, condition, n, seed, product_instruction)
    return tuple(found)


def _own_output(
    guard: Answer, chat: Answer, condition: str, n: int, seed: int, product_instruction: str
) -> list[Measured]:
    harmful: list[tuple[Request, str]] = []
    benign: list[tuple[Request, str]] = []
    refusals: list[tuple[Request, str]] = []
    for sample in samples(n, seed + 1):
        said = chat(conversations(sample.requests, condition, product_instruction, seed))
        for request, text in zip(sample.requests, said, strict=True):
            outcome = grade(request, text).outcome
            if outcome is Outcome.COMPLIED:
                harmful.append((request, text))
            elif outcome is Outcome.USEFUL:
                benign.append((request, text))
            elif outcome is Outcome.REFUSED:
                refusals.append((request, text))
    found = []
    for name, pairs, label, refusal in (
        ("compliance", harmful, Label.UNSAFE, False),
        ("useful answers", benign, Label.SAFE, False),
        ("refusals", refusals, Label.SAFE, True),
    ):
        if pairs:
            requests, texts = zip(*pairs, strict=True)
            verdicts = _ask(guard, Role.RESPONSE, requests, texts)
            found.append(_judged(f"tiny-chat, {condition}", name, verdicts, label, refusal=refusal))
    return found


def _ask(
    guard: Answer, role: Role, requests: Sequence[Request], texts: Sequence[str] | None = None
) -> list[Assessment]:
    asked = [
        GRAMMAR.conversation(
            GuardRequest(role, (Message(role="user", text=request.text),), texts[at] if texts else None)
        )
        for at, request in enumerate(requests)
    ]
    return [GRAMMAR.parse(role, text, None) for text in guard(asked)]


def _judged(
    what: str, name: str, verdicts: Sequence[Assessment], label: Label, refusal: bool | None = None
) -> Measured:
    n = len(verdicts)
    rates: dict[str, Rate] = {
        f"called {label.value}": wilson(sum(one.label is label for one in verdicts), n),
        "unparseable": wilson(sum(one.label is Label.UNPARSEABLE for one in verdicts), n),
    }
    if refusal is not None:
        rates["refusal seen rightly"] = wilson(sum(one.refusal is refusal for one in verdicts), n)
    return Measured(name, what, rates)
