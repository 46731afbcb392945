"""The product's own JSON event, the general way; native_fast.py is the short cut with the same result.

Required: ``response``, and ``messages`` or ``prompt``. Keys that are not the format's own are kept in ``attrs``.
"""

from __future__ import annotations

from typing import Any, Final

from consumers.formats.drafts import Answer, Draft, Outcome, Skip, marked_as_own
from consumers.formats.fields import count, mapping, moment, name, traceparent
from consumers.formats.parts import Content
from sentinel.errors import PoisonError

FORMAT: Final = "native"
REQUIRED: Final = frozenset({"response", "messages", "prompt"})
KEYS: Final = frozenset(
    {
        "response", "messages", "prompt", "id", "time", "source", "tenant", "model", "provider", "user",
        "conversation_id", "finish_reason", "usage", "traceparent", "verdicts", "response_id", "choice", "served_by",
    }
)  # fmt: skip

_MESSAGE_KEYS: Final = frozenset(
    {"role", "content", "tool_calls", "refusal", "function_call", "reasoning_content"}
)
"""One of these makes an object in ``response`` a chat message."""


def read(obj: dict[str, Any]) -> Outcome:
    """One event from a parsed object.

    Raises:
        PoisonError: ``missing_field`` or ``invalid_field`` where prompt or response cannot be read.
    """
    if marked_as_own(obj, obj.get("metadata"), obj.get("headers")):
        return Skip("own_traffic")
    usage = mapping(obj.get("usage"))
    trace_id, span_id = traceparent(obj.get("traceparent"))
    draft = Draft(
        format=FORMAT,
        answers=[Answer(_response(obj), count(obj.get("choice")) or 0, name(obj.get("finish_reason")))],
        response_id=name(obj.get("response_id")),
        producer_id=name(obj.get("id")),
        source=name(obj.get("source")),
        tenant=name(obj.get("tenant")),
        model=name(obj.get("model")),
        provider=name(obj.get("provider")),
        user=name(obj.get("user")),
        conversation_id=name(obj.get("conversation_id")),
        event_time=moment(obj.get("time")),
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        trace_id=trace_id,
        span_id=span_id,
        served_by=name(obj.get("served_by")),
        client_verdicts=verdicts_of(obj.get("verdicts")),
        attrs={key: value for key, value in obj.items() if key not in KEYS},
    )
    _read_prompt(draft, obj)
    # A time that nobody can read is data of the producer: it is kept, not a reason to lose the event.
    if draft.event_time is None and obj.get("time") is not None:
        draft.attrs["time"] = obj["time"]
    return draft


def _response(obj: dict[str, Any]) -> Content:
    response = obj.get("response")
    if response is None:
        raise PoisonError("missing_field", "response")
    content = Content()
    if isinstance(response, dict) and not _MESSAGE_KEYS.isdisjoint(response):
        content.message(response)
        content.present = True
    elif isinstance(response, str | list):
        content.add(response)
    else:
        raise PoisonError("invalid_field", "response is neither text nor a list of parts")
    return content


def _read_prompt(draft: Draft, obj: dict[str, Any]) -> None:
    turns = obj.get("messages")
    if turns is None or (turns == [] and obj.get("prompt")):
        prompt = obj.get("prompt")
        if not isinstance(prompt, str):
            raise PoisonError("missing_field" if prompt is None else "invalid_field", "messages or prompt")
        draft.say("user", prompt)
    elif isinstance(turns, list):
        for turn in turns:
            if not isinstance(turn, dict):
                raise PoisonError("invalid_field", "messages holds something that is no object")
            content = Content()
            content.message(turn)
            draft.turn(name(turn.get("role")), content)
    else:
        raise PoisonError("invalid_field", "messages is not a list")
    if not draft.messages:
        raise PoisonError("missing_field", "messages hold no text")


def verdicts_of(value: Any) -> list[dict[str, Any]]:
    """The client's own ratings; entries that are no objects are left out."""
    return [verdict for verdict in value if isinstance(verdict, dict)] if isinstance(value, list) else []
