"""Qwen3Guard-Gen: two lines about a prompt, three about a response, four states.

Form (Qwen3Guard technical report, figure 2): ``Safety: Safe|Controversial|Unsafe``, ``Categories: a, b`` or
``None``, and for responses ``Refusal: Yes|No``. The policy text is in the tokenizer's chat template, which
judges the last message, so a prompt check ends with a user's turn and a response check with an assistant's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from sentinel.guards.base import Conversation, GuardGrammar, GuardRequest, TokenLogprob
from sentinel.verdicts import Assessment, Label, Role

UNKNOWN_CATEGORY: Final = "Unknown"
"""Stands for every category that the vendor does not list, so that categories stay a closed set."""

CATEGORIES: Final = (
    "Violent",
    "Non-violent Illegal Acts",
    "Sexual Content or Sexual Acts",
    "PII",
    "Suicide & Self-Harm",
    "Unethical Acts",
    "Politically Sensitive Topics",
    "Copyright Violation",
    "Jailbreak",
)
"""The vendor's labels; Jailbreak is said of prompts only."""

_BY_SPELLING: Final = {name.casefold(): name for name in CATEGORIES} | {
    # The policy text in the template spells it out, the label set abbreviates it; the model says both.
    "personally identifiable information": "PII",
    "personally identifiable information (pii)": "PII",
    "non-violent": "Non-violent Illegal Acts",
    "suicide and self-harm": "Suicide & Self-Harm",
}
_NO_CATEGORY: Final = frozenset({"", "none", "n/a"})
_LABELS: Final = {"Safe": Label.SAFE, "Controversial": Label.CONTROVERSIAL, "Unsafe": Label.UNSAFE}

_SAFETY: Final = re.compile(r"Safety:[ \t]*(Safe|Controversial|Unsafe)[ \t]*\.?", re.ASCII)
_REFUSAL: Final = re.compile(r"Refusal:[ \t]*(Yes|No)[ \t]*\.?", re.ASCII)
_EMPTY_THOUGHT: Final = re.compile(r"\s*<think>\s*</think>")

_UNKNOWN_ROLES: Final = frozenset({"system", "developer"})
"""Turns that the template has no place for."""

MAX_RAW_CHARS: Final = 8_192
"""An answer is about 30 characters; a server that ignores ``max_tokens`` must not fill the store."""

_CACHED_CHARS: Final = 256
"""Longer answers are not worth a place in the cache."""


class Qwen3GuardGrammar:
    """The grammar of Qwen3Guard-Gen 0.6B, 4B and 8B (Apache-2.0)."""

    name: str = "qwen3guard"
    template: str = "1"
    categories: tuple[str, ...] = (*CATEGORIES, UNKNOWN_CATEGORY)
    parameters: Mapping[str, Any] = MappingProxyType({"max_tokens": 128, "temperature": 0})

    def __init__(self, *, scores: bool = False) -> None:
        """With ``scores`` the server is asked for log probabilities, and assessments carry a score."""
        if scores:
            # vLLM's batch endpoint returns none unless both are given.
            self.parameters = MappingProxyType({**self.parameters, "logprobs": True, "top_logprobs": 10})

    def conversation(self, request: GuardRequest) -> Conversation:
        """Users' and assistants' turns, then the text to judge.

        Tool results become users' turns, system texts are left out: the template knows neither role. Markup
        of the template inside a text is broken up, or a text could end the conversation and write a verdict.
        """
        turns: Conversation = [
            {"role": "assistant" if message.role == "assistant" else "user", "content": _inert(message.text)}
            for message in request.messages
            if message.role not in _UNKNOWN_ROLES
        ]
        if request.response is not None:
            turns.append({"role": "assistant", "content": _inert(request.response)})
            return turns
        if request.messages and request.messages[-1].role == "user":
            return turns
        for end in range(len(request.messages), 0, -1):
            if request.messages[end - 1].role == "user":
                after = sum(m.role not in _UNKNOWN_ROLES for m in request.messages[end:])
                return turns[: len(turns) - after]
        # Nobody is called a user: the last turn is what was asked.
        if turns:
            turns[-1]["role"] = "user"
            return turns
        last = request.messages[-1].text if request.messages else ""
        return [{"role": "user", "content": _inert(last)}]

    def parse(self, role: Role, text: str, logprobs: Sequence[TokenLogprob] | None) -> Assessment:
        """The verdict in ``text``; `Label.UNPARSEABLE` where it breaks the form. Never raises."""
        if logprobs:
            return _parse(role, text, _unsafe_probability(logprobs))
        if len(text) <= _CACHED_CHARS:
            return _parse_cached(role, text)
        return _parse(role, text, None)


def _inert(text: str) -> str:
    """``text`` without U+0000 and with the template's own markup broken by a blank."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if "<" in text:
        text = text.replace("<|", "< |")
        text = text.replace("<BEGIN CONVERSATION>", "< BEGIN CONVERSATION>")
        text = text.replace("<END CONVERSATION>", "< END CONVERSATION>")
    return text


def _parse(role: Role, text: str, score: float | None) -> Assessment:
    raw = text[:MAX_RAW_CHARS].replace("\0", "\ufffd")
    thought = _EMPTY_THOUGHT.match(raw)
    lines = [line.strip(" \t\r") for line in raw[thought.end() if thought else 0 :].split("\n")]
    lines = [line for line in lines if line]
    unparseable = Assessment(label=Label.UNPARSEABLE, raw=raw)
    # The verdict has to come first: an echo of the conversation may hold one that the judged text wrote.
    if not lines or not lines[0].startswith("Safety:"):
        return unparseable
    labels = set()
    categories: list[str] = []
    refusals = set()
    has_categories = False
    foreign = False
    for line in lines:
        if line.startswith("Safety:"):
            match = _SAFETY.fullmatch(line)
            labels.add(_LABELS[match[1]] if match else Label.UNPARSEABLE)
        elif line.startswith("Categories:") and not has_categories:
            has_categories = True
            categories = _categories(line.removeprefix("Categories:"))
        elif line.startswith("Refusal:"):
            match = _REFUSAL.fullmatch(line)
            refusals.add(match[1] == "Yes" if match else None)
        elif not ("Refusal:".startswith(line) and line is lines[-1]):
            # A third line that the token limit cut is still the grammar's own.
            foreign = True
    label = labels.pop()
    if labels or label is Label.UNPARSEABLE:
        return unparseable
    if label is Label.SAFE and (categories or foreign):
        # "Safe" with a named harm says two things at once. With words of no grammar it may be an echo of a judged
        # text that begins like a verdict; the same beside "Unsafe" is harmless, since nobody gains by it.
        return unparseable
    refusal = refusals.pop() if role is Role.RESPONSE and len(refusals) == 1 else None
    return Assessment(label=label, categories=tuple(categories), refusal=refusal, score=score, raw=raw)


@lru_cache(maxsize=1024)
def _parse_cached(role: Role, text: str) -> Assessment:
    # Most answers are one of a few dozen texts; assessments are frozen, so sharing them is harmless.
    return _parse(role, text, None)


def _categories(listed: str) -> list[str]:
    found: list[str] = []
    for part in re.split(r"[,;\uff0c\u3001]", listed):
        spelling = part.strip().strip(".[]'\"").casefold()
        if spelling in _NO_CATEGORY:
            continue
        name = _BY_SPELLING.get(spelling, UNKNOWN_CATEGORY)
        if name not in found:
            found.append(name)
    return found


def _unsafe_probability(logprobs: Sequence[TokenLogprob]) -> float | None:
    """Share of Unsafe among the three labels at the first token after ``Safety:``; None without it."""
    before = ""
    for entry in logprobs:
        if before.rstrip().endswith("Safety:") and entry.token.strip():
            break
        before += entry.token
    else:
        return None
    mass = dict.fromkeys(_LABELS, 0.0)
    for rival in entry.top_logprobs or (entry,):
        token = rival.token.strip()
        for label in _LABELS:
            # A tokenizer may cut "Unsafe" into "Un" and "safe": the beginning already decides.
            if token and label.startswith(token) and rival.logprob <= 0:
                mass[label] += math.exp(rival.logprob)
    total = sum(mass.values())
    return mass["Unsafe"] / total if total > 0 else None


GRAMMAR: Final[GuardGrammar] = Qwen3GuardGrammar()
