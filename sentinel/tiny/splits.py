"""What training never sees, decided by hash: the same in every process and for every seed."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

RESERVED_SHARE: Final = 0.2
"""Share of cells, objects, templates, prefixes and wordings that no training row may hold."""


class Split(StrEnum):
    """Which part of a request is reserved; everything else in it is as in training."""

    TRAIN = "train"
    TEMPLATE = "template"
    CELL = "cell"
    """Verb and object are known, but not together."""
    OBJECT = "object"
    PREFIX = "prefix"
    """A jailbreak prefix."""


def fraction(kind: str, text: str) -> float:
    """A number in [0, 1) that looks random and never changes."""
    digest = hashlib.sha256(f"{kind}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def reserved(kind: str, text: str, share: float = RESERVED_SHARE) -> bool:
    """Whether this ``text`` of that ``kind`` (template, cell, object, ...) is kept from training."""
    return fraction(kind, text) < share


def reserved_of(kind: str, listed: tuple[str, ...], share: float = RESERVED_SHARE) -> tuple[str, ...]:
    """The reserved part of a short list: the share is exact, where `reserved` may leave one or none."""
    ranked = sorted(listed, key=lambda text: fraction(kind, text))
    kept = set(ranked[: max(1, round(share * len(listed)))])
    return tuple(text for text in listed if text in kept)
