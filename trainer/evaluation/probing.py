"""Which questions prove that a replica serves an adapter: those to which it and the base begin differently."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trainer.evaluation.answering import RawAnswer

_BEGINNING: Final = 40
"""Characters; about the 16 tokens that a probe compares, or fewer."""
_EQUAL_SHARE: Final = 0.25
"""Share of questions whose answers need not differ: an adapter that answers everything anew is wrong too."""


def probe_questions(pairs: Iterable[tuple[RawAnswer, RawAnswer]], count: int) -> list[str]:
    """At most ``count`` prompts, most of them where the second answer begins otherwise than the first.

    Spread over sets and families as far as they come; where too few differ, equal ones fill up.
    """
    differing: dict[tuple[str, str], list[str]] = {}
    equal: dict[tuple[str, str], list[str]] = {}
    for base, candidate in pairs:
        differs = base.answer[:_BEGINNING] != candidate.answer[:_BEGINNING]
        place = (differing if differs else equal).setdefault((base.set, base.family), [])
        if len(place) < count:
            place.append(base.prompt)
    same = _spread(equal, count)
    different = _spread(differing, count)
    few = min(len(same), int(count * _EQUAL_SHARE))
    chosen = different[: count - few]
    return chosen + same[: count - len(chosen)]


def _spread(listed: dict[tuple[str, str], list[str]], count: int) -> list[str]:
    """One of each place in turn."""
    found: list[str] = []
    for depth in range(count):
        found += [prompts[depth] for prompts in listed.values() if depth < len(prompts)]
    return list(dict.fromkeys(found))[:count]
