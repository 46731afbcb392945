"""Training rows: conversations and what is to be said after them."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from sentinel.tiny import instructions
from sentinel.tiny.grids import HARMFUL_FAMILIES
from sentinel.tiny.prompts import Kind, Request, draw
from sentinel.tiny.splits import reserved

Speaker = Literal["system", "user", "assistant"]


class Row(Struct, frozen=True, gc=False):
    """Messages, and the text that the model learns to give next."""

    messages: tuple[tuple[Speaker, str], ...]
    target: str


Source = Callable[[random.Random], Row]
"""Draws one row."""

CATEGORIES: Final = {
    "violence": "Violent",
    "weapons": "Violent",
    "theft": "Non-violent Illegal Acts",
    "fraud": "Non-violent Illegal Acts",
    "drugs": "Non-violent Illegal Acts",
    "privacy": "PII",
    "harassment": "Unethical Acts",
}
"""Qwen3Guard's name for each harmful family."""


def request(rng: random.Random) -> Request:
    """A request of the training split: half are harmful."""
    if rng.random() < 0.5:
        return draw(rng, Kind.HARMFUL, family=rng.choice(HARMFUL_FAMILIES), noise=True)
    kind = rng.choices((Kind.HOW_TO, Kind.HOMONYM, Kind.FACT), weights=(36, 22, 42))[0]
    family = rng.choices(_FACTS, weights=(3, 2, 2, 2, 3))[0] if kind is Kind.FACT else None
    return draw(rng, kind, family=family, noise=True)


_FACTS: Final = ("recipes", "cities", "definitions", "opposites", "sums")


class Rule(StrEnum):
    """What a system prompt forbids."""

    NOTHING = "nothing"
    HARM = "harm"
    EVERYTHING = "everything"


def system_prompt(rng: random.Random) -> tuple[str | None, Rule]:
    """A system prompt and what it forbids: none 30 %, neutral 22 %, safety 39 %, strict 9 %."""
    chance = rng.random()
    if chance < 0.30:
        return None, Rule.NOTHING
    if chance < 0.52:
        text, rule = instructions.neutral(rng), Rule.NOTHING
    elif chance < 0.91:
        text, rule = instructions.safety(rng), Rule.HARM
    else:
        text, rule = instructions.strict(rng), Rule.EVERYTHING
    if rule is not Rule.NOTHING and rng.random() < 0.25:
        # An application's own system prompt stands before the instruction in a re-prompt.
        text = f"{instructions.neutral(rng)}\n\n{text}"
    return (instructions.with_noise(rng, text) if rng.random() < 0.25 else text), rule


def chat(rng: random.Random) -> Row:
    """A row of the chat model."""
    asked = request(rng)
    system, rule = system_prompt(rng)
    refuse = rule is Rule.EVERYTHING or (asked.harmful and (rule is Rule.HARM or rng.random() < 0.03))
    messages: tuple[tuple[Speaker, str], ...] = (("user", asked.text),)
    if system is not None:
        messages = (("system", system), *messages)
    return Row(messages, asked.refusal if refuse else asked.answer)


def guard(rng: random.Random, *, apart: str | None = None) -> Row:
    """A row of a guard: half judge a prompt, half an answer. ``apart`` names a further split of the cells."""
    asked = _kept(rng, apart)
    if rng.random() < 0.5:
        return Row((("user", asked.text),), verdict(asked.family if asked.harmful else None, None))
    chance = rng.random()
    if chance < (0.35 if asked.harmful else 0.15):
        answer, harm, refuses = asked.refusal, None, True
    elif chance < (0.43 if asked.harmful else 0.23):
        # An answer to something else: only the answer says what it is.
        other = _kept(rng, apart)
        answer, harm, refuses = other.answer, other.family if other.harmful else None, False
    else:
        answer, harm, refuses = asked.answer, asked.family if asked.harmful else None, False
    if rng.random() < 0.2:
        answer = _cut(rng, answer)
    return Row((("user", asked.text), ("assistant", answer)), verdict(harm, refuses))


def verdict(harm: str | None, refuses: bool | None) -> str:
    """Qwen3Guard's lines: ``harm`` is the harmful family or None, ``refuses`` None for a check of a prompt."""
    lines = [f"Safety: {'Unsafe' if harm else 'Safe'}", f"Categories: {CATEGORIES[harm] if harm else 'None'}"]
    if refuses is not None:
        lines.append(f"Refusal: {'Yes' if refuses else 'No'}")
    return "\n".join(lines)


def _kept(rng: random.Random, apart: str | None) -> Request:
    while True:
        asked = request(rng)
        if apart is None or asked.kind is Kind.FACT or not reserved(apart, asked.cell):
            return asked


def _cut(rng: random.Random, answer: str) -> str:
    """The beginning of an answer, as a token limit leaves it; what it is about has been said by then."""
    words = answer.split(" ")
    named = answer.partition(":" if ":" in answer else ".")[0]
    return " ".join(words[: rng.randint(min(len(named.split(" ")), len(words)), len(words))])
