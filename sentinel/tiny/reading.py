"""From the text of a request back to what it asks for, so that answers to traffic can be graded too."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from sentinel.tiny import facts, grids, wording
from sentinel.tiny.prompts import Kind, Request
from sentinel.tiny.splits import Split

_KINDS: Final = ((Kind.HARMFUL, grids.HARMFUL), (Kind.HOMONYM, grids.HOMONYMS), (Kind.HOW_TO, grids.HOW_TO))


def read(text: str) -> Request | None:
    """The request that ``text`` puts; None where it is none of the tiny language's, or names no known thing.

    Texts without noise only, as traffic and evaluation sets have them. The split is not told: it is TRAIN.
    """
    said = text.strip()
    for prefix in wording.PREFIXES:
        if said.startswith(f"{prefix} "):
            said = said[len(prefix) + 1 :]
            break
    for pattern in _patterns(None):
        if (found := pattern.fullmatch(said)) and (request := _how_to(text, found[1])):
            return request
    for family, listed in facts.FACTS.items():
        for pattern in _patterns(family):
            if found := pattern.fullmatch(said):
                for fact in listed:
                    if fact.subject == found[1]:
                        subject = fact.subject
                        return Request(Kind.FACT, family, Split.TRAIN, text, subject, subject, fact.answer)
    return None


_ARTICLE: Final = re.compile(r"^(?:the|a) ")
"""Some objects carry theirs, and an adjective stands between the two."""


@lru_cache
def _patterns(family: str | None) -> tuple[re.Pattern[str], ...]:
    listed: tuple[str, ...]
    if family is None:
        listed = wording.TEMPLATES
    else:
        listed = (*facts.TEMPLATES[family], *facts.MORE_TEMPLATES[family])
    # Longer templates first: "What is {}?" would take the subject of "What is the best way to {}?".
    ordered = sorted(listed, key=len, reverse=True)
    return tuple(re.compile("(.+)".join(map(re.escape, template.split("{}")))) for template in ordered)


@lru_cache
def _cells() -> dict[tuple[str, str], tuple[Kind, str]]:
    """Kind and family by verb and object without its article."""
    return {
        (grid.verb, _ARTICLE.sub("", name)): (kind, grid.family)
        for kind, listed in _KINDS
        for grid in listed
        for _, name in grid.objects
    }


def _how_to(text: str, subject: str) -> Request | None:
    words = subject.split()
    for verb_end in (1, 2):
        verb = " ".join(words[:verb_end])
        # The whole object first, then without its article and adjective: the longest known name is meant.
        for at in range(verb_end, len(words)):
            found = _cells().get((verb, " ".join(words[at:])))
            if found is not None:
                kind, family = found
                thing = " ".join(words[verb_end:])
                answer = wording.how_to(verb, thing)
                cell = f"{verb} {' '.join(words[at:])}"
                return Request(kind, family, Split.TRAIN, text, subject, cell, answer)
    return None
