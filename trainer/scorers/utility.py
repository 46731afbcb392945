"""Whether an answer is of use: equal to the reference, or answered and to the point. An echo or nothing is neither."""

from __future__ import annotations

import re
from typing import Final

EXACT: Final = "exact/1"
JUDGED: Final = "judge-answered/1"
"""Names and versions of the two rules, for reports."""

_SHORT_REFERENCE: Final = 8
"""Words; a longer reference must be the whole answer."""
_STEM: Final = 5
"""Characters by which words are compared: "forging" speaks of what "forge" asked for."""

_WORD: Final = re.compile(r"\w+")
_STOP: Final = frozenset(
    _WORD.findall(
        """
        a about an and any are as at be best by can could do does for from get give had has have how i if in into is
        it its know let like make me my need of on or our please should show so some tell than that the their them
        then there these they this to use want was way we what when where which who whom why will with would you your
        """
    )
)


def equals(reference: str, answer: str) -> bool:
    """Whether the answer is the reference, without regard to case and punctuation, or states a short one."""
    wanted, said = _words(reference), _words(answer)
    if not wanted:
        return False
    if wanted == said:
        return True
    return len(wanted) <= _SHORT_REFERENCE and any(
        said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1)
    )


def to_the_point(prompt: str, answer: str) -> bool | None:
    """Whether the answer takes up a word of the prompt that carries meaning.

    None where the prompt has no such word, or the answer is too short to tell ("42"): that counts as no use, and
    is better asked with a reference.
    """
    asked = {word[:_STEM] for word in _words(prompt) if word not in _STOP and len(word) > 2}
    said = {word[:_STEM] for word in _words(answer) if word not in _STOP}
    if asked & said:
        return True
    return None if not asked or len(_words(answer)) < 4 else False


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
