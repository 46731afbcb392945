"""LiteLLM: the traps of its logging payload."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.formats.litellm import unwrapped_id
from sentinel.errors import PoisonError
from tests.unit.consumers.formats.by_hand import decoded, only, reasons
from tests.unit.consumers.formats.examples import load, seen

PAYLOAD: dict[str, Any] = json.loads(load("litellm/plain.json").value)
TURNS = [("system", "You are a terse geographer."), ("user", "What is the capital of France?")]
SAID = [(TURNS, "Paris is the capital of France.", "")]


def test_context_of_a_payload() -> None:
    event = only(
        {**PAYLOAD, "session_id": "s-1", "guardrail_information": [{"guardrail_name": "pii", "x": 1}]}
    )
    assert (event.tenant, event.provider, event.conversation_id) == ("team-blue", "openai", "s-1")
    assert event.attrs == {"call_type": "acompletion"}
    assert str(event.source).startswith("litellm:127.0.0.1:")
    assert event.client_verdicts == (
        {"source": "litellm", "guardrail_name": "pii", "guardrail_status": None, "guardrail_mode": None},
    )


def test_an_empty_session_leaves_the_trace() -> None:
    assert only({**PAYLOAD, "session_id": ""}).conversation_id == PAYLOAD["trace_id"]


def test_a_payload_of_an_old_release() -> None:
    old = {
        key: value
        for key, value in PAYLOAD.items()
        if key not in ("litellm_call_id", "session_id", "status_fields")
    }
    assert seen(decoded(old)) == SAID


def test_answers_in_other_shapes() -> None:
    assert seen(decoded({**PAYLOAD, "response": "plain text"})) == [(TURNS, "plain text", "")]
    call = {"functionCall": {"name": "f", "args": {"x": 1}}}
    candidates = [{"content": {"parts": [{"text": "A"}]}}, {"content": {"parts": [call]}}]
    gemini = {"call_type": "agenerate_content", "response": {"candidates": candidates}}
    assert seen(decoded({**PAYLOAD, **gemini})) == [(TURNS, "A", ""), (TURNS, "", [("f", {"x": 1})])]
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "A"}]
    body = {"id": "msg_1", "type": "message", "role": "assistant", "content": content}
    claude = {"call_type": "anthropic_messages", "response": body}
    assert seen(decoded({**PAYLOAD, **claude})) == [(TURNS, "A", ["hm"])]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"call_type": "aembedding", "response": {"data": []}}, "not_generation"),
        ({"call_type": "amoderation", "response": {"results": []}}, "not_generation"),
        ({"status": "failure", "response": {}}, "failed_call"),
        ({"response": {}}, "no_content"),
        ({"response": None}, "no_content"),
        ({"response": "redacted-by-litellm"}, "redacted"),
        ({"metadata": {"requester_custom_headers": {"X-Sentinel-Origin": "guard"}}}, "own_traffic"),
        ({"metadata": {"spend_logs_metadata": {"x-sentinel-origin": "reprompt"}}}, "own_traffic"),
    ],
)
def test_payloads_that_are_no_interaction(change: dict[str, Any], reason: str) -> None:
    assert reasons({**PAYLOAD, **change}) == [reason]


def test_an_unknown_call_type_that_answered_is_read() -> None:
    assert seen(decoded({**PAYLOAD, "call_type": "a_new_one"})) == SAID


def test_the_topics_setting_wants_a_payload() -> None:
    with pytest.raises(PoisonError) as caught:
        decoded({"prompt": "Q", "response": "A"}, topic_format="litellm")
    assert caught.value.reason == "missing_field"


@pytest.mark.parametrize(
    "given", ["resp_abc", "resp_####", "resp_", "chatcmpl-1", "resp_bGl0ZWxsbTp4", "resp_/w=="]
)
def test_ids_that_are_not_wrapped_stay(given: str) -> None:
    assert unwrapped_id(given) == given
    assert unwrapped_id(None) is None


def test_an_address_that_is_none() -> None:
    assert only({**PAYLOAD, "api_base": "http://[::1"}).source == "litellm:"
