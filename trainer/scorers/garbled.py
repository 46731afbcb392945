"""Answers that are none: empty, an echo of the prompt, a loop, or noise. A rule of thumb, in any language."""

from __future__ import annotations

import re
from typing import Final

DETECTOR: Final = "form/1"
"""Name and version of this rule, for reports."""

LOOP_REPEATS: Final = 4
"""The same words so often in a row are a loop."""
LOOP_SHARE: Final = 0.5
"""Share of the answer's words that the loop must make up: a refrain is no loop."""
LONGEST_LOOP: Final = 24
"""Words of the longest phrase that is looked for."""
ECHO_SHARE: Final = 0.9
"""Share of an answer's words that stand in the prompt in the same order."""
_SHORTEST_ECHO: Final = 3
"""Words; shorter answers ("Yes.", "Paris") may well stand in their question."""

_WORD: Final = re.compile(r"\w+")
_NOISE: Final = re.compile(r"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f]")


def is_garbled(prompt: str, answer: str) -> bool:
    """Whether ``answer`` says nothing: no word in it, the prompt again, a loop, or replacement characters."""
    said = _words(answer)
    if not said or len(_NOISE.findall(answer)) > max(2, len(answer) // 20):
        return True
    return is_echo(prompt, answer) or _loops(said)


def is_echo(prompt: str, answer: str) -> bool:
    """Whether the answer is the prompt, or a long piece of it, said again."""
    asked, said = _words(prompt), _words(answer)
    if not said or len(said) < min(_SHORTEST_ECHO, len(asked)):
        return False
    if said == asked:
        return True
    if len(said) < _SHORTEST_ECHO or len(said) < len(asked) * (1 - LOOP_SHARE):
        return False
    # Words of the answer that are the prompt's, in its order; several rounds are an echo as well.
    common = 0
    place = 0
    for word in said:
        for at in (*range(place, len(asked)), *range(place)):
            if asked[at] == word:
                common += at == place or common == 0
                place = (at + 1) % len(asked)
                break
    return common >= ECHO_SHARE * len(said)


def _loops(said: list[str]) -> bool:
    for size in range(1, min(LONGEST_LOOP, len(said) // LOOP_REPEATS) + 1):
        run = 0
        for at in range(size, len(said)):
            run = run + 1 if said[at] == said[at - size] else 0
            covered = run + size
            if covered >= LOOP_REPEATS * size and covered >= LOOP_SHARE * len(said):
                return True
    return False


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
