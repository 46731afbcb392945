"""OTLP traces and logs with GenAI content: which entry is a model call, and its draft.

A record is a whole export request. A span is an item of its own; log events of one call (conventions before 1.37
write one for each turn, Node's Responses instrumentation two for each call) are joined by trace and span id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from consumers.formats import otlp_aliases as names
from consumers.formats.drafts import MAX_ITEMS, Bad, Draft, Outcome, Skip, marked_as_own
from consumers.formats.fields import count, first, json_in_text, mapping, moment, name
from consumers.formats.otlp_messages import (
    read_body_choice,
    read_body_turn,
    read_input,
    read_output,
    response_body,
)
from consumers.formats.otlp_wire import Entry, from_json, from_protobuf, looks_otlp
from sentinel.errors import PoisonError

SPAN_FORMAT: Final = "otlp-span"
LOG_FORMAT: Final = "otlp-log"
FLAT_FORMAT: Final = "otlp-flat"

_KEPT_LENGTH: Final = 256
_FLAT_PREFIX: Final = "gen_ai."

_T = TypeVar("_T")


def read_protobuf(raw: bytes) -> list[Outcome]:
    """Outcomes of a binary export request. Raises PoisonError as `from_protobuf`, and ``too_many_items``."""
    return _outcomes(from_protobuf(raw))


def read_json(obj: Mapping[str, Any]) -> list[Outcome]:
    """Outcomes of an export request in JSON; metrics give none. Raises PoisonError ``unknown_schema`` and others."""
    if not looks_otlp(obj):
        raise PoisonError("unknown_schema", "no OTLP export request")
    return _outcomes(from_json(obj))


def looks_flat(obj: Mapping[str, Any]) -> bool:
    """Whether an object's own keys are attribute names."""
    return any(key.startswith(_FLAT_PREFIX) for key in obj)


def read_flat(obj: Mapping[str, Any]) -> Outcome:
    """One call from an object whose keys are attribute names."""
    entry = Entry(
        is_log=True,
        trace_id=name(obj.get("trace_id")) or "",
        span_id=name(obj.get("span_id")) or "",
        name=names.OPERATION_EVENT,
        attributes=dict(obj),
        resource=dict(obj),
    )
    outcome = _call(entry)
    if isinstance(outcome, Draft):
        outcome.format = FLAT_FORMAT
        outcome.event_time = moment(first(("time", "timestamp"), obj))
        outcome.producer_id = outcome.producer_id or name(obj.get("id"))
    return outcome


def _outcomes(entries: list[Entry]) -> list[Outcome]:
    if len(entries) > MAX_ITEMS:
        raise PoisonError("too_many_items", f"{len(entries)} spans or log records")
    outcomes: list[Outcome] = []
    turns: list[Entry] = []
    details: dict[str, Entry] = {}
    calls: list[Entry] = []
    for entry in entries:
        if entry.name in names.MESSAGE_EVENTS or entry.name == names.CHOICE_EVENT:
            turns.append(entry)
        elif entry.is_log and entry.name == names.OPERATION_EVENT and entry.call is not None:
            # Input and output of one call may come as two events.
            known = details.setdefault(entry.call, entry)
            if known is entry:
                calls.append(entry)
            else:
                known.attributes = {**entry.attributes, **known.attributes}
        else:
            calls.append(entry)
    for entry in calls:
        outcomes.append(_guarded(_call, entry))
    for group in _grouped(turns):
        outcomes.append(_guarded(_conversation, group))
    return outcomes


def _guarded(read: Callable[[_T], Outcome], given: _T) -> Outcome:
    # One entry of many that cannot be read does not take the others with it.
    try:
        return read(given)
    except PoisonError as error:
        return Bad(error.reason, error.detail)


def _call(entry: Entry) -> Outcome:
    attributes = entry.attributes
    if entry.events:
        attributes = _with_span_events(entry)
    reason = skip_reason(entry, attributes)
    if reason is not None:
        return Skip(reason)
    draft = _draft(entry, attributes)
    read_input(draft, attributes)
    draft.answers = read_output(attributes)
    if not draft.answers:
        choices = [e for e in entry.events if e[0] == names.CHOICE_EVENT]
        draft.answers = [read_body_choice(_event_body(held), n) for n, (_, held) in enumerate(choices)]
    if not draft.messages:
        for event, held in entry.events:
            if event in names.MESSAGE_EVENTS:
                draft.turn(names.MESSAGE_EVENTS[event], read_body_turn(_event_body(held)))
    if not draft.answers and any(key in attributes for key in names.REFERENCES):
        return Bad("unsupported_schema", "contents were uploaded and are only referred to")
    return draft


def skip_reason(entry: Entry, attributes: Mapping[str, Any]) -> str | None:
    """Why an entry is no model call, or None for one. Operation first, then what each library calls it."""
    if marked_as_own(attributes, entry.resource):
        return "own_traffic"
    operation = attributes.get(names.OPERATION)
    if isinstance(operation, str):
        return _unless(operation in names.GENERATIONS, operation in names.PARENTS)
    operation = attributes.get(names.VERCEL_OPERATION)
    if isinstance(operation, str):
        called = operation.endswith(names.VERCEL_CALLS) and not operation.startswith("ai.embed")
        return _unless(called, operation in names.VERCEL_PARENTS)
    operation = attributes.get(names.REQUEST_TYPE)
    if isinstance(operation, str):
        return _unless(operation in names.REQUEST_GENERATIONS, False)
    kind = attributes.get(names.OPENINFERENCE_KIND)
    if isinstance(kind, str):
        return _unless(kind.upper() == "LLM", kind.upper() in names.OPENINFERENCE_PARENTS)
    kind = attributes.get(names.LANGFUSE_TYPE)
    if isinstance(kind, str):
        # Langfuse for Node calls embeddings generations.
        called = kind == "generation" and "embed" not in entry.name.lower()
        return _unless(called, kind in names.LANGFUSE_PARENTS)
    if names.TRACELOOP_KIND in attributes:
        return "parent_span"
    if entry.name == names.OPERATION_EVENT or any(sign in attributes for sign in names.GENERATION_SIGNS):
        return None
    return "not_generation"


def _unless(generation: bool, parent: bool) -> str | None:
    if generation:
        return None
    return "parent_span" if parent else "not_generation"


def _draft(entry: Entry, attributes: Mapping[str, Any]) -> Draft:
    usage = mapping(_json(attributes.get(names.LANGFUSE_USAGE)))
    spent = count(first(names.INPUT_TOKENS, attributes))
    made = count(first(names.OUTPUT_TOKENS, attributes))
    return Draft(
        format=LOG_FORMAT if entry.is_log else SPAN_FORMAT,
        response_id=name(first(names.RESPONSE_ID, attributes)) or name(response_body(attributes).get("id")),
        producer_id=entry.call,
        source=name(first(names.SOURCE_RESOURCE, entry.resource)),
        tenant=name(first(names.TENANT_RESOURCE, entry.resource)),
        model=name(first(names.MODEL, attributes)),
        provider=name(first(names.PROVIDER, attributes)),
        user=name(first(names.USER, attributes)),
        conversation_id=name(first(names.CONVERSATION, attributes)),
        event_time=moment(entry.time_ns),
        input_tokens=count(first(names.USAGE_INPUT, usage)) if spent is None else spent,
        output_tokens=count(first(names.USAGE_OUTPUT, usage)) if made is None else made,
        trace_id=entry.trace_id or None,
        span_id=entry.span_id or None,
        attrs=_kept(attributes) | _kept(entry.resource),
        failed=entry.failed
        or names.ERROR in attributes
        or attributes.get("langfuse.observation.level") == "ERROR",
    )


def _kept(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: attributes[key] for key in names.KEPT if key in attributes}
    return {
        key: value
        for key, value in kept.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _KEPT_LENGTH)
    }


def _grouped(turns: Iterable[Entry]) -> Iterable[list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    loose: list[list[Entry]] = []
    for entry in turns:
        if entry.call is not None:
            groups.setdefault(entry.call, []).append(entry)
        # Without ids a turn after an answer begins the next call.
        elif not loose or (loose[-1][-1].name == names.CHOICE_EVENT and entry.name != names.CHOICE_EVENT):
            loose.append([entry])
        else:
            loose[-1].append(entry)
    yield from groups.values()
    yield from loose


def _conversation(turns: list[Entry]) -> Outcome:
    attributes: dict[str, Any] = {}
    for entry in turns:
        attributes |= entry.attributes
    if marked_as_own(attributes, turns[0].resource):
        return Skip("own_traffic")
    draft = _draft(turns[-1], attributes)
    for entry in turns:
        if entry.name == names.CHOICE_EVENT:
            draft.answers.append(read_body_choice(_log_body(entry), len(draft.answers)))
        else:
            content = read_body_turn(_log_body(entry))
            draft.turn(_role(entry), content)
    return draft


def _role(entry: Entry) -> str:
    body = entry.body
    given = name(body.get("role")) if isinstance(body, dict) else None
    return given or names.MESSAGE_EVENTS[entry.name]


def _log_body(entry: Entry) -> Any:
    return entry.body if entry.body is not None else _event_body(entry.attributes)


def _event_body(attributes: Mapping[str, Any]) -> Any:
    content = attributes.get(names.EVENT_CONTENT)
    return attributes if content is None else content


def _with_span_events(entry: Entry) -> dict[str, Any]:
    # Older conventions put the texts, and some newer SDKs the whole call, into events of the span.
    attributes = dict(entry.attributes)
    for event, held in entry.events:
        if event in names.CONTENT_EVENTS or event == names.OPERATION_EVENT:
            for key, value in held.items():
                attributes.setdefault(key, value)
    return attributes


def _json(value: Any) -> Any:
    return json_in_text(value) if isinstance(value, str) else value
