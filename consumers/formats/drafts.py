"""From what a format says to items: one place decides identity, redaction, missing content and own traffic."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from consumers.formats.fields import Cleaner
from consumers.formats.parts import Content
from sentinel import ids
from sentinel.errors import PoisonError
from sentinel.events import (
    OWN_TRAFFIC_HEADER,
    Ignored,
    Item,
    Message,
    Origin,
    PromptEvent,
    RawRecord,
    Rejected,
)

MAX_ITEMS: Final = 10_000
"""Items of one record. A batch of an exporter holds hundreds; more would sit in memory as one offset."""

MAX_CHOICE: Final = 32_767
"""Largest index of a choice that the store's column holds."""

MAX_CHOICES: Final = 128
"""Answers of one call; each is stored with the whole prompt, so their number multiplies it."""

MAX_REPEATED: Final = 32 * 1024 * 1024
"""Characters of the prompt, times the answers that it is stored with."""

MAX_ROLE: Final = 64
"""Characters of a turn's role; producers choose it freely."""

PLACEHOLDERS: Final = frozenset(
    {
        "__REDACTED__",
        "redacted-by-litellm",
        "REDACTED",
        "[REDACTED]",
        "<redacted>",
        "FILTERED",
        "[FILTERED]",
        "[Filtered]",
    }
)
"""What libraries write in place of a text that they were told to hide."""

_MARKERS: Final = frozenset(
    {
        OWN_TRAFFIC_HEADER,
        OWN_TRAFFIC_HEADER.replace("-", "_"),
        f"http.request.header.{OWN_TRAFFIC_HEADER}",
        f"ai.request.headers.{OWN_TRAFFIC_HEADER}",
    }
)


@dataclass(slots=True)
class Answer:
    """One choice of a model call."""

    content: Content
    choice: int = 0
    finish_reason: str | None = None


@dataclass(slots=True)
class Draft:
    """One model call as a format reports it; each answer becomes an item."""

    format: str
    messages: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    unscanned: int = 0
    response_id: str | None = None
    producer_id: str | None = None
    source: str | None = None
    tenant: str | None = None
    model: str | None = None
    provider: str | None = None
    user: str | None = None
    conversation_id: str | None = None
    event_time: dt.datetime | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    served_by: str | None = None
    client_verdicts: list[dict[str, Any]] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    """The producer says that the call failed; it is an interaction only if an answer was recorded all the same."""

    def turn(self, role: str | None, content: Content) -> None:
        """Append a turn of the prompt; a turn that holds no text and nothing unscanned is left out."""
        self.unscanned += content.unscanned
        text = content.whole
        if text or content.unscanned:
            self.messages.append(Message(role or "user", text))

    def say(self, role: str, text: str | None) -> None:
        """Append a turn that is plain text."""
        if text:
            self.messages.append(Message(role, text))


@dataclass(frozen=True, slots=True)
class Skip:
    """No interaction; ``reason`` is one of `IGNORED_REASONS`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Bad:
    """One item of several that cannot be read; ``reason`` is one of `DEAD_LETTER_REASONS`."""

    reason: str
    detail: str = ""


Outcome = Draft | Skip | Bad


def marked_as_own(*holders: Any) -> bool:
    """Whether one of the objects (headers, metadata, attributes) carries the marker of the product's own calls."""
    for holder in holders:
        if isinstance(holder, tuple | Mapping):
            for key, value in holder if isinstance(holder, tuple) else holder.items():
                if key.lower() in _MARKERS and value:
                    return True
    return False


def user_ref(tenant: str | None, user: str) -> str:
    """Hash that stands for a caller: equal within a tenant, useless across tenants."""
    return hashlib.blake2b(f"{tenant or ''}\x1f{user}".encode(), digest_size=16).hexdigest()


def event_id(draft: Draft, record: RawRecord, choice: int, item: int) -> tuple[UUID, bool]:
    """Identity of one answer and whether a second report of it could be recognised."""
    if draft.response_id:
        return ids.event_id_from_response(draft.tenant, draft.response_id, choice), True
    if draft.producer_id:
        return ids.event_id_from_producer(draft.tenant, draft.source, draft.producer_id, choice), True
    return (
        ids.event_id_from_log(
            record.cluster, record.topic, record.incarnation, record.partition, record.offset, item
        ),
        False,
    )


def items_of(record: RawRecord, outcomes: Iterable[Outcome]) -> list[Item]:
    """Number the outcomes of a record and make its items.

    Raises:
        PoisonError: ``too_many_items``; or the only outcome of the record is bad.
    """
    items: list[Item] = []
    outcomes = list(outcomes)
    for outcome in outcomes:
        try:
            made = _items(record, outcome, len(items))
        except PoisonError as error:
            made = [Rejected(_origin(record, len(items)), error.reason, error.detail)]
        items += made
        if len(items) > MAX_ITEMS:
            raise PoisonError("too_many_items", f"more than {MAX_ITEMS}")
    if len(items) == 1 and isinstance(items[0], Rejected):
        # The record is its only item: the dead letter is the record's own.
        raise PoisonError(items[0].reason, items[0].detail)
    return items


def _origin(record: RawRecord, item: int) -> Origin:
    return Origin(record.topic, record.incarnation, record.partition, record.offset, item)


def _items(record: RawRecord, outcome: Outcome, item: int) -> list[Item]:
    match outcome:
        case Skip(reason=reason):
            return [Ignored(_origin(record, item), reason)]
        case Bad(reason=reason, detail=detail):
            return [Rejected(_origin(record, item), reason, detail)]
        case Draft():
            return _events(record, outcome, item)


def _events(record: RawRecord, draft: Draft, first_item: int) -> list[Item]:
    answers = [answer for answer in draft.answers if answer.content.present]
    if not answers:
        return [Ignored(_origin(record, first_item), "failed_call" if draft.failed else "no_content")]
    if len(answers) > 1:
        _bound(draft, len(answers))
    made: list[Item] = []
    prompt = next((m.text for m in reversed(draft.messages) if m.role == "user"), None)
    clean = Cleaner()
    messages = tuple([Message(clean.text(m.role)[:MAX_ROLE], clean.text(m.text)) for m in draft.messages])
    replaced = clean.replaced
    for answer in answers:
        item = first_item + len(made)
        # A placeholder is not an answer, and a prompt that is one could not be asked again.
        if answer.content.visible in PLACEHOLDERS or prompt in PLACEHOLDERS:
            made.append(Ignored(_origin(record, item), "redacted"))
        else:
            clean.replaced = replaced
            made.append(_event(record, draft, answer, item, messages, clean))
    return made


def _bound(draft: Draft, answers: int) -> None:
    if answers > MAX_CHOICES:
        raise PoisonError("too_many_items", f"{answers} answers of one call, at most {MAX_CHOICES}")
    if sum(len(message.text) for message in draft.messages) * answers > MAX_REPEATED:
        raise PoisonError("too_large", f"a prompt this long with {answers} answers")


def _event(
    record: RawRecord, draft: Draft, answer: Answer, item: int, messages: tuple[Message, ...], clean: Cleaner
) -> PromptEvent:
    choice = min(answer.choice, MAX_CHOICE)
    identity, identified = event_id(draft, record, answer.choice, item)
    response, extra = clean.text(answer.content.visible), clean.text(answer.content.beside)
    return PromptEvent(
        event_id=identity,
        origin=_origin(record, item),
        identified=identified,
        format=draft.format,
        messages=messages,
        response=response,
        response_extra=extra,
        received_ms=record.timestamp_ms,
        event_time=draft.event_time,
        source=clean.name(draft.source),
        tenant=clean.name(draft.tenant),
        model=clean.name(draft.model),
        provider=clean.name(draft.provider),
        user_ref=user_ref(draft.tenant, draft.user) if draft.user else None,
        conversation_id=clean.name(draft.conversation_id),
        response_id=clean.name(draft.response_id),
        choice=choice,
        finish_reason=clean.name(answer.finish_reason),
        input_tokens=draft.input_tokens,
        output_tokens=draft.output_tokens,
        trace_id=clean.name(draft.trace_id),
        span_id=clean.name(draft.span_id),
        served_by=clean.name(draft.served_by),
        client_verdicts=tuple(clean.tree(draft.client_verdicts)),
        attrs=clean.tree(draft.attrs),
        nul_replaced=clean.replaced,
        unscanned_parts=draft.unscanned + answer.content.unscanned,
    )


def with_defaults(outcome: Outcome, **defaults: Any) -> Outcome:
    """A draft with the envelope's values where it has none of its own; other outcomes unchanged."""
    if not isinstance(outcome, Draft):
        return outcome
    return replace(
        outcome, **{k: v for k, v in defaults.items() if v is not None and getattr(outcome, k) is None}
    )
