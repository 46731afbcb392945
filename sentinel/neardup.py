"""Near duplicates by SimHash (Charikar 2002; Manku, Jain & Das Sarma, WWW 2007): 64 bits over word shingles.

Two texts are near duplicates when their hashes differ in at most ``k`` bits. With ``k`` = 3 the hash is cut into
four blocks of 16 bits: hashes that differ in three bits agree in at least one block, so only texts that share a
block are compared.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from functools import lru_cache
from typing import Final

_WORD = re.compile(r"\w+")
_BLOCKS: Final = 4
_BLOCK_BITS: Final = 16
MAX_DISTANCE: Final = _BLOCKS - 1
"""Largest ``k`` that the blocks find for certain."""


@lru_cache(maxsize=65_536)
def _feature(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def simhash(text: str, shingle: int = 2) -> int:
    """64-bit SimHash of the words of ``text``, lower case; the same in every process."""
    words = _WORD.findall(text.lower())
    features = [" ".join(words[i : i + shingle]) for i in range(max(1, len(words) - shingle + 1))]
    weights = [0] * 64
    for feature in features:
        bits = _feature(feature)
        for place in range(64):
            weights[place] += 1 if bits >> place & 1 else -1
    return sum(1 << place for place, weight in enumerate(weights) if weight > 0)


def distance(one: int, other: int) -> int:
    """Number of bits in which two hashes differ."""
    return (one ^ other).bit_count()


class NearDuplicates:
    """Remembers texts and says whether a new one is near one of them."""

    def __init__(self, k: int = 3) -> None:
        if not 0 <= k <= MAX_DISTANCE:
            raise ValueError(f"k must be between 0 and {MAX_DISTANCE}")
        self._k = k
        self._blocks: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(_BLOCKS)]

    def seen(self, text: str) -> bool:
        """Whether ``text`` is near an earlier one; if not, it is remembered."""
        new = simhash(text)
        keys = [new >> (_BLOCK_BITS * i) & 0xFFFF for i in range(_BLOCKS)]
        for block, key in zip(self._blocks, keys, strict=True):
            if any(distance(new, old) <= self._k for old in block.get(key, ())):
                return True
        for block, key in zip(self._blocks, keys, strict=True):
            block[key].append(new)
        return False
