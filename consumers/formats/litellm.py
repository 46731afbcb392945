"""LiteLLM's StandardLoggingPayload, as its ``generic_api`` callback posts it: object, array or ndjson."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from consumers.formats import openai_pair
from consumers.formats.drafts import Answer, Draft, Outcome, Skip, marked_as_own
from consumers.formats.fields import count, first, mapping, moment, name
from consumers.formats.parts import Content
from sentinel.errors import PoisonError
from sentinel.events import Message

FORMAT: Final = "litellm"

_SIGNS: Final = (
    "litellm_call_id",
    "custom_llm_provider",
    "model_group",
    "model_map_information",
    "hidden_params",
)
_GENERATIONS: Final = frozenset(
    {
        "completion", "acompletion", "text_completion", "atext_completion", "responses", "aresponses",
        "anthropic_messages", "generate_content", "agenerate_content", "generate_content_stream",
        "agenerate_content_stream",
    }
)  # fmt: skip
_WRAPPED_ID: Final = "response_id:"


def looks_like_payload(obj: dict[str, Any]) -> bool:
    """Whether an object is a logging payload; releases before 2025 lack ``litellm_call_id``."""
    return "call_type" in obj and "response" in obj and any(sign in obj for sign in _SIGNS)


def read(obj: dict[str, Any]) -> Outcome:
    """One model call from a payload. Raises PoisonError ``missing_field`` or ``too_deep``."""
    if "call_type" not in obj:
        raise PoisonError("missing_field", "call_type")
    metadata, response = mapping(obj.get("metadata")), mapping(obj.get("response"))
    if marked_as_own(
        metadata, *(metadata.get(key) for key in ("requester_custom_headers", "requester_metadata",
        "spend_logs_metadata", "headers")), mapping(obj.get("model_parameters")).get("extra_headers"),
    ):  # fmt: skip
        return Skip("own_traffic")
    # Embeddings come with messages and tokens like a chat: the call type tells.
    if name(obj.get("call_type")) not in _GENERATIONS and not openai_pair.has_answer(response):
        return Skip("not_generation")
    if obj.get("status", "success") != "success":
        return Skip("failed_call")
    response_id = unwrapped_id(name(response.get("id")))
    draft = Draft(
        format=FORMAT,
        response_id=response_id,
        producer_id=name(obj.get("litellm_call_id")) or name(obj.get("id")),
        source=f"litellm:{_host(obj.get('api_base'))}",
        tenant=name(metadata.get("user_api_key_team_id")) or name(metadata.get("user_api_key_org_id")),
        model=name(response.get("model")) or name(obj.get("model")),
        provider=name(obj.get("custom_llm_provider")),
        user=name(obj.get("end_user"))
        or name(mapping(obj.get("model_parameters")).get("user"))
        or name(metadata.get("user_api_key_user_id")),
        conversation_id=name(obj.get("session_id")) or name(obj.get("trace_id")),
        event_time=moment(obj.get("endTime")),
        input_tokens=count(obj.get("prompt_tokens")),
        output_tokens=count(obj.get("completion_tokens")),
        trace_id=name(obj.get("trace_id")),
        client_verdicts=_guardrails(obj.get("guardrail_information")),
        attrs=_attrs(obj),
    )
    if draft.response_id is None and name(obj.get("id")) != name(obj.get("litellm_call_id")):
        draft.response_id = unwrapped_id(name(obj.get("id")))
    openai_pair.read_request(draft, {"messages": obj.get("messages")})
    instructions = response.get("instructions")
    if isinstance(instructions, str) and not any(m.role == "system" for m in draft.messages):
        draft.messages.insert(0, Message("system", instructions))
    draft.answers = _answers(obj.get("response"))
    return draft


def unwrapped_id(response_id: str | None) -> str | None:
    """The provider's response id; LiteLLM wraps those of the Responses API in base64 with its routing data."""
    if response_id is None or not response_id.startswith("resp_"):
        return response_id
    try:
        inner = base64.b64decode(response_id[5:], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return response_id
    _, found, wrapped = inner.partition(_WRAPPED_ID)
    return wrapped.partition(";")[0] or response_id if found and inner.startswith("litellm:") else response_id


def _answers(response: Any) -> list[Answer]:
    if isinstance(response, dict) and openai_pair.has_answer(response):
        return openai_pair.read_answers(response)
    content = Content()
    if isinstance(response, str):
        content.add(response)
        return [Answer(content)]
    body = mapping(response)
    candidates = body.get("candidates")
    if isinstance(candidates, list):  # Gemini's own shape
        return [_candidate(c, index) for index, c in enumerate(candidates) if isinstance(c, dict)]
    if "content" in body:  # Anthropic's own shape
        content.message(body)
        return [Answer(content, 0, name(body.get("stop_reason")))]
    return []


def _candidate(candidate: Mapping[str, Any], index: int) -> Answer:
    content = Content()
    content.message(mapping(candidate.get("content")))
    return Answer(content, index, name(candidate.get("finishReason")))


def _host(api_base: Any) -> str:
    if not isinstance(api_base, str):
        return ""
    try:
        return urlsplit(api_base).netloc
    except ValueError:  # an unfinished IPv6 address
        return ""


def _attrs(obj: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: name(obj.get(key)) for key in ("call_type", "model_group")}
    return {key: value for key, value in kept.items() if value}


def _guardrails(value: Any) -> list[dict[str, Any]]:
    entries = value if isinstance(value, list) else [value]
    return [
        {
            "source": "litellm",
            **{key: first((key,), entry) for key in ("guardrail_name", "guardrail_status", "guardrail_mode")},
        }
        for entry in entries
        if isinstance(entry, dict)
    ]
