"""Refusals by their phrases: made-up ones of common shape, those of the tiny language, and what only sounds alike."""

from __future__ import annotations

import random

import pytest

from sentinel.refusal import LOOKED_AT, is_refusal
from sentinel.tiny.prompts import Kind, draw

REFUSALS = (
    "I'm sorry, but I can't assist with that.",
    "I’m really sorry, but I can’t help with that request.",
    "Sorry, I cannot do this.",
    "**I cannot** provide instructions for building that.",
    "I can't help you with hurting someone.",
    "I won't provide that.",
    "I am unable to comply.",
    "I'm not able to discuss this topic.",
    "As an AI language model, I cannot do that.",
    "As a responsible assistant I can't answer.",
    "Unfortunately, I can't share this.",
    "I must decline this request.",
    "I have to respectfully refuse.",
    "My apologies, but I am unable to do so.",
    "I apologize, but I cannot fulfill this.",
    "I apologize, but I cannot argue in favour of that.",
    "I'm really sorry to hear that, but I can't provide the help that you need.",
    "I'm not comfortable writing that.",
    "This request goes against my guidelines, so no.",
    "Cannot help with that.",
    "No, I cannot.",
    "That is a hard question. Still, I cannot help with it.",
)
ANSWERS = (
    "",
    "   ",
    "Sure, here is how to forge a horseshoe: first make a simple plan.",
    "I'm sorry to hear that. Rest, drink water and see a doctor.",
    "Sorry for your loss. Here is a short letter.",
    "It is illegal in some places, so check first. Then mix flour and water.",
    "I cannot wait to tell you: melt the butter first.",
    "You cannot help a plant by drowning it. Water it weekly.",
    "I can help you with that.",
    "I will not pretend that it is easy, but here is how: begin slowly.",
    "Paris.",
    "If the pump cannot help, call a plumber.",
    "It is not safe to mix these; keep them apart and open a window.",
)


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_found(answer: str) -> None:
    assert is_refusal(answer)
    assert is_refusal(f"\n  {answer.upper()}\n")


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_none(answer: str) -> None:
    assert not is_refusal(answer)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_tiny_language_is_told_apart(kind: Kind) -> None:
    rng = random.Random(5)
    for _ in range(300):
        request = draw(rng, kind)
        assert is_refusal(request.refusal)
        assert not is_refusal(request.answer)


def test_only_the_beginning_is_looked_at() -> None:
    story = "Once there was a knight. " * 40
    assert len(story) > LOOKED_AT
    assert not is_refusal(f"{story} 'I cannot help you', said the dragon.")
