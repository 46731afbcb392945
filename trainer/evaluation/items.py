"""Evaluation sets in memory: items with stable ids, and a hash over all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from sentinel.events import Message
from sentinel.tiny.prompts import Request
from trainer.evidence import EvaluationSet, SetKind

_BLANKS: Final = re.compile(r"\s+")


class SetItem(Struct, frozen=True, kw_only=True, gc=False):
    """One prompt of a set."""

    id: str
    """Unique in its set and the same for ever: arms, runs and raw answers are joined by it."""
    messages: tuple[Message, ...]
    """The conversation; its last turn is a user's."""
    family: str = ""
    """Kind of harm or subject; rates are shown for each."""
    reference: str | None = None
    """The right answer, where there is one."""
    request: Request | None = None
    """In built-in sets: what the tiny language's own grader needs."""

    @property
    def prompt(self) -> str:
        """The text that is answered."""
        return self.messages[-1].text


class LoadedSet(Struct, frozen=True, kw_only=True):
    """A set that can be asked."""

    name: str
    kind: SetKind
    items: tuple[SetItem, ...]
    sha256: str
    """Over the items in their order; fixed before any candidate exists."""
    source: str = ""
    """File or built-in name, for people."""

    @property
    def identity(self) -> EvaluationSet:
        """What goes into the evidence."""
        return EvaluationSet(name=self.name, kind=self.kind, items=len(self.items), sha256=self.sha256)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every user text, for comparison with training data."""
        return tuple(turn.text for item in self.items for turn in item.messages if turn.role == "user")


def item_id(messages: Iterable[Message]) -> str:
    """An id from the conversation itself: 16 hex digits of sha256 over roles and texts."""
    whole = hashlib.sha256()
    for message in messages:
        whole.update(f"{len(message.text)}\x1f{message.role}\x1f{message.text}".encode())
    return whole.hexdigest()[:16]


def normalised(text: str) -> str:
    """A prompt without regard to case and white space: two that agree in this are one prompt."""
    return _BLANKS.sub(" ", text).strip().casefold()


def digest(items: Iterable[SetItem]) -> str:
    """sha256 over items in their order, each as one line of JSON."""
    whole = hashlib.sha256()
    for item in items:
        whole.update(msgspec.json.encode(item, order="deterministic") + b"\n")
    return whole.hexdigest()


def version_of(sets: Iterable[LoadedSet | EvaluationSet]) -> str:
    """Hash over all sets' names, kinds and hashes, in any order: the version whose tries are counted."""
    lines = sorted(f"{one.name}\x1f{one.kind.value}\x1f{one.sha256}\n" for one in sets)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
