"""Texts that say nearly the same: word pairs, their Jaccard similarity, and MinHash to find candidates.

MinHash with banding (Broder 1997; the index is datasketch's) only proposes; every proposal is checked with the
exact similarity, so that the outcome does not hang on the hash functions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_WORD: Final = re.compile(r"\w+")
_PERMUTATIONS: Final = 128
_SLACK: Final = 0.3
"""The index is asked for this much less than is wanted: at its own threshold it finds half, here over 99.9 %."""
_CONTAINED_WORDS: Final = 5
"""A shorter evaluation prompt inside a longer text is chance."""


def words(text: str) -> tuple[str, ...]:
    """Words in lower case, without punctuation."""
    return tuple(_WORD.findall(text.lower()))


def normalised(text: str) -> str:
    """One spelling for texts that differ in case, punctuation and white space."""
    return " ".join(words(text)) or " ".join(text.split())


def shingles(text: str) -> frozenset[str]:
    """Pairs of neighbouring words; the text itself where it has fewer than two."""
    found = words(text)
    if len(found) < 2:
        return frozenset({normalised(text)})
    return frozenset(f"{a} {b}" for a, b in itertools.pairwise(found))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of common elements in [0, 1]; 1 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0


class Likenesses(Generic[K]):
    """Remembers texts by key and finds those that are nearly a given one."""

    def __init__(self, threshold: float) -> None:
        """``threshold`` is the Jaccard similarity of word pairs from which two texts are near, in (0, 1]."""
        from datasketch import MinHashLSH

        self._threshold = threshold
        # A threshold near 0 makes bands of one row, where everything is a candidate.
        self._index = MinHashLSH(threshold=max(0.2, threshold - _SLACK), num_perm=_PERMUTATIONS)
        self._texts: dict[K, frozenset[str]] = {}

    def add(self, key: K, text: str) -> None:
        """Remember a text. Raises ValueError for a key that is known."""
        parts = shingles(text)
        self._index.insert(key, _signature(parts))
        self._texts[key] = parts

    def near(self, text: str) -> list[K]:
        """Keys of the texts that are near, in the order in which they were added."""
        parts = shingles(text)
        candidates = self._index.query(_signature(parts))
        found = {key for key in candidates if jaccard(parts, self._texts[key]) >= self._threshold}
        return [key for key in self._texts if key in found] if len(found) > 1 else list(found)


@cache
def _empty() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS)


def _signature(parts: frozenset[str]) -> Any:
    # Copied: drawing the permutations anew takes longer than all else about a signature.
    signature = _empty().copy()
    signature.update_batch([part.encode("utf-8", "surrogatepass") for part in sorted(parts)])
    return signature


def clusters(texts: Sequence[str], threshold: float) -> list[int]:
    """The number of each text's cluster: near texts are in one, and so are the near ones of those.

    A cluster's number is the place of its first text.
    """
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    index: Likenesses[int] = Likenesses(threshold)
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        same = first.setdefault(normalised(text), place)
        if same != place:
            parent[root(place)] = root(same)
            continue
        for other in index.near(text):
            one, two = sorted((root(place), root(other)))
            parent[two] = one
        index.add(place, text)
    return [root(place) for place in range(len(texts))]


class Evaluated:
    """The prompts that evaluation asks: exact, nearly, or whole inside a longer text."""

    def __init__(self, prompts: Iterable[str], threshold: float) -> None:
        self._exact = {normalised(prompt) for prompt in prompts}
        self._exact.discard("")
        self._near: Likenesses[int] = Likenesses(threshold)
        self._by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for number, text in enumerate(sorted(self._exact)):
            self._near.add(number, text)
            found = words(text)
            if len(found) >= _CONTAINED_WORDS:
                self._by_start.setdefault(found[:_CONTAINED_WORDS], []).append(found)

    def __len__(self) -> int:
        return len(self._exact)

    def holds(self, text: str) -> bool:
        """Whether ``text`` is an evaluation prompt, near to one, or holds one of five words or more."""
        if normalised(text) in self._exact or self._near.near(text):
            return True
        found = words(text)
        return any(
            found[at : at + len(asked)] == asked
            for at in range(len(found) - _CONTAINED_WORDS + 1)
            for asked in self._by_start.get(found[at : at + _CONTAINED_WORDS], ())
        )
