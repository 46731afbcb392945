"""Texts longer than the guard's context: cut into overlapping windows, the worst verdict wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sentinel.events import Message
from sentinel.guards.base import GuardFailure, GuardRequest, Judgement
from sentinel.verdicts import Assessment, Label

_BADNESS: Final = {Label.SAFE: 0, Label.CONTROVERSIAL: 1, Label.UNPARSEABLE: 2, Label.UNSAFE: 3}


class WindowSize(Struct, frozen=True, kw_only=True, gc=False):
    """How much text one guard call may hold, in characters (a token of Qwen3 is 3 to 4 in English, 1 to 2 in
    Chinese; the client halves a window that the server calls too long).
    """

    text: int = 24_000
    """The judged text."""
    context: int = 12_000
    """All turns before it together; the newest are kept."""
    overlap: int = 1_000
    """Characters that neighbouring windows share, so that a sentence on the border is seen whole once."""

    def halved(self) -> WindowSize:
        """The next smaller size, for a server that says the text is too long."""
        return WindowSize(text=max(self.text // 2, 2), context=self.context // 2, overlap=self.overlap // 2)


def cut(text: str, size: int, overlap: int) -> list[str]:
    """``text`` in pieces of at most ``size`` characters, each sharing ``overlap`` with the one before."""
    if len(text) <= size:
        return [text]
    step = max(size - overlap, 1)
    # The last window ends with the text: a short rest would be judged without what leads to it.
    starts = [*range(0, len(text) - size, step), len(text) - size]
    return [text[start : start + size] for start in starts]


def fits(request: GuardRequest, size: WindowSize) -> bool:
    """Whether ``request`` can be asked as it is."""
    messages = request.messages
    if request.response is None:
        if len(messages) == 1:
            return len(messages[0].text) <= size.text
        judged = _asked(messages)
        if judged < 0:
            return True
        before = sum(len(message.text) for message in messages[:judged])
        return len(messages[judged].text) <= size.text and before <= size.context
    if len(request.response) > size.text:
        return False
    return sum([len(message.text) for message in messages]) <= size.context


def lengths_of(requests: Sequence[GuardRequest]) -> list[int]:
    """Characters of each request, context included; two that follow each other often share theirs."""
    lengths: list[int] = []
    shared: tuple[Message, ...] | None = None
    context = 0
    for request in requests:
        if request.messages is not shared:
            shared = request.messages
            context = sum([len(message.text) for message in shared])
        lengths.append(context + len(request.response) if request.response else context)
    return lengths


def windows(request: GuardRequest, size: WindowSize) -> list[GuardRequest]:
    """``request`` as one or more requests that fit, in the text's order."""
    if fits(request, size):
        return [request]
    if request.response is None:
        judged = _asked(request.messages)
        context = _newest(request.messages[:judged], size.context)
        asked = request.messages[judged]
        return [
            GuardRequest(request.role, (*context, Message(asked.role, piece)))
            for piece in cut(asked.text, size.text, size.overlap)
        ]
    context = _newest(request.messages, size.context)
    return [
        GuardRequest(request.role, context, piece) for piece in cut(request.response, size.text, size.overlap)
    ]


def worst(judgements: Sequence[Judgement]) -> Judgement:
    """One judgement of a text from those of its windows (at least one).

    Order: unsafe, then failed, then unparseable, then controversial, then safe. An unreadable or failed
    window is unknown and beats safe and controversial, since the harm may be in it and unknown is never safe;
    it does not beat unsafe, which the rest of the text cannot take back. Categories are those of all windows
    that share the label, the score is the highest, and an answer refuses only if every window does.
    """
    failures = [judgement for judgement in judgements if isinstance(judgement, GuardFailure)]
    read = [judgement for judgement in judgements if isinstance(judgement, Assessment)]
    if not read:
        return failures[0]
    top = max(read, key=lambda assessment: _BADNESS[assessment.label])
    if failures and top.label is not Label.UNSAFE:
        return failures[0]
    if len(judgements) == 1:
        return top
    categories: dict[str, None] = {}
    for assessment in read:
        if assessment.label is top.label:
            categories |= dict.fromkeys(assessment.categories)
    refusals = [assessment.refusal for assessment in read if assessment.refusal is not None]
    scores = [assessment.score for assessment in read if assessment.score is not None]
    return replace(
        top,
        categories=tuple(categories),
        refusal=all(refusals) if refusals else None,
        score=max(scores) if scores else None,
        windows=sum(assessment.windows for assessment in read) + len(failures),
    )


def _asked(messages: Sequence[Message]) -> int:
    """Index of the turn that a prompt check judges; -1 where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            return index
    return len(messages) - 1


def _newest(messages: Sequence[Message], limit: int) -> tuple[Message, ...]:
    """The end of ``messages``, at most ``limit`` characters; the oldest turn kept may lose its beginning."""
    kept: list[Message] = []
    left = limit
    for message in reversed(messages):
        if len(message.text) > left:
            if left > 0:
                kept.append(Message(message.role, message.text[-left:]))
            break
        kept.append(message)
        left -= len(message.text)
    return tuple(reversed(kept))
