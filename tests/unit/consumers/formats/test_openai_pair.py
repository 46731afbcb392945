"""Request and response pairs: chat, completions, Responses, streams, batches, failures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.formats.drafts import MAX_CHOICES
from sentinel.errors import PoisonError
from sentinel.events import PromptEvent
from tests.unit.consumers.formats.by_hand import decoded, only, reasons
from tests.unit.consumers.formats.examples import seen

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Q"}]}
SAID: dict[str, Any] = {
    "id": "r-1",
    "model": "m-1",
    "created": 1_770_000_000,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
}
PAIR: dict[str, Any] = {"request": ASKED, "response": SAID}


def test_a_pair_and_its_context() -> None:
    event = only(
        {
            **PAIR, "source": "gateway", "tenant": "acme", "provider": "vllm",
            "headers": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            "request": {**ASKED, "user": "u-1", "metadata": {"conversation_id": "c-1"}},
        }
    )  # fmt: skip
    assert (event.format, event.response_id, event.model, event.conversation_id) == (
        "openai",
        "r-1",
        "m-1",
        "c-1",
    )
    assert (event.source, event.tenant, event.provider, event.span_id) == (
        "gateway",
        "acme",
        "vllm",
        "b7ad6b7169203331",
    )
    assert (event.input_tokens, event.output_tokens, event.finish_reason) == (1, 2, "stop")
    assert event.user_ref


@pytest.mark.parametrize(
    "wrapped",
    [
        {"request": json.dumps(ASKED), "response": json.dumps(SAID)},
        {"request": {"body": ASKED, "headers": {}}, "response": {"status_code": 200, "body": SAID}},
        {
            "custom_id": "1",
            "request": {"url": "/v1", "body": json.dumps(ASKED)},
            "response": {"body": json.dumps(SAID)},
        },
    ],
)
def test_bodies_as_gateways_wrap_them(wrapped: dict[str, Any]) -> None:
    assert seen(decoded(wrapped, topic_format="openai")) == [([("user", "Q")], "A", "")]


def test_a_stream_logged_as_chunks_keeps_the_choices_apart() -> None:
    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"id": "r-1", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}

    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"x"'}}
    chunks = [
        chunk(0, {"role": "assistant", "content": "A"}), chunk(1, {"content": "B"}), chunk(0, {"content": "a"}),
        chunk(1, {"tool_calls": [call]}), chunk(1, {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
        chunk(0, {}, "stop"), chunk(1, {}, "tool_calls"), {"id": "r-1", "choices": [], "usage": {"prompt_tokens": 5}},
    ]  # fmt: skip
    items = decoded({"request": ASKED, "response": chunks})
    assert seen(items) == [([("user", "Q")], "Aa", ""), ([("user", "Q")], "B", [("f", {"x": 1})])]
    assert [(i.finish_reason, i.input_tokens) for i in items if isinstance(i, PromptEvent)] == [
        ("stop", 5), ("tool_calls", 5),
    ]  # fmt: skip


def test_a_list_of_prompts_is_a_call_for_each() -> None:
    request = {"model": "m", "prompt": ["Q1", "Q2"], "n": 2}
    response = {"id": "r-1", "choices": [{"index": n, "text": f"A{n}"} for n in range(4)]}
    items = decoded({"request": request, "response": response})
    assert seen(items) == [
        ([("user", "Q1")], "A0", ""),
        ([("user", "Q1")], "A1", ""),
        ([("user", "Q2")], "A2", ""),
        ([("user", "Q2")], "A3", ""),
    ]
    assert len({i.event_id for i in items if isinstance(i, PromptEvent)}) == 4
    with pytest.raises(PoisonError):
        decoded({"request": request, "response": {"id": "r-1", "choices": [{"text": "A"}] * 3}})


def test_token_ids_instead_of_a_prompt_are_counted() -> None:
    event = only({"request": {"prompt": [1, 2, 3]}, "response": {"id": "r", "choices": [{"text": "A"}]}})
    assert (event.response, event.unscanned_parts) == ("A", 3)


def test_sound_with_a_transcript_is_read() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "audio": {"id": "a", "data": "UklG", "transcript": "spoken"},
    }
    event = only({"request": ASKED, "response": {"id": "r", "choices": [{"message": message}]}})
    assert event.response == "spoken"


def test_reasoning_fields_of_open_servers() -> None:
    message = {"role": "assistant", "content": "A", "reasoning_content": "hm"}
    event = only({"request": ASKED, "response": {"id": "r", "choices": [{"message": message}]}})
    assert (event.response, event.response_extra) == ("A", "hm")


def test_responses_items_and_results_of_tools() -> None:
    request = {
        "instructions": "S", "previous_response_id": "resp_0",
        "input": [
            {"role": "user", "content": "Q"}, {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
            {"type": "function_call_output", "call_id": "1", "output": "42"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
            {"type": "item_reference", "id": "x"},
        ],
    }  # fmt: skip
    output = [
        {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "how to"}},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    body = {
        "id": "resp_1",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": output,
    }
    event = only({"request": request, "response": body})
    assert [(m.role, m.text) for m in event.messages] == [
        ("system", "S"), ("user", "Q"), ("assistant", "f {}"), ("tool", "42"), ("assistant", "so"), ("user", ""),
    ]  # fmt: skip
    assert (event.response, event.finish_reason, event.conversation_id) == (
        "no",
        "max_output_tokens",
        "resp_0",
    )
    assert "how to" in event.response_extra
    assert event.unscanned_parts == 1


@pytest.mark.parametrize("choices", [[], [{"index": 0, "message": {"role": "assistant", "content": None}}]])
def test_an_answer_without_text_is_an_empty_answer(choices: list[Any]) -> None:
    assert only({"request": ASKED, "response": {"id": "r", "choices": choices}}).response == ""


def test_what_is_no_answer() -> None:
    assert reasons({"request": ASKED, "response": {"error": {"message": "x"}}}) == ["failed_call"]
    assert reasons({"request": ASKED, "response": None, "error": {"code": 500}}) == ["failed_call"]
    assert reasons({"request": {"input": "x"}, "response": {"object": "list", "data": []}}) == [
        "not_generation"
    ]
    assert reasons({"request": {"input": "x"}, "response": {"id": "modr-1", "results": [{}]}}) == [
        "not_generation"
    ]
    assert reasons({"request": {**ASKED, "metadata": {"x-sentinel-origin": "judge"}}, "response": SAID}) == [
        "own_traffic"
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"request": ASKED, "response": {}},
        {"request": {}, "response": SAID},
        {"request": ASKED, "response": {"x": 1}},
    ],
)
def test_half_a_pair_is_poison(value: dict[str, Any]) -> None:
    with pytest.raises(PoisonError) as caught:
        decoded(value)
    assert caught.value.reason == "missing_field"


def test_azures_own_verdicts_are_kept_apart_from_ours() -> None:
    results = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}]
    event = only({"request": ASKED, "response": {**SAID, "prompt_filter_results": results}})
    assert event.client_verdicts == ({"source": "azure", **results[0]},)


def test_answers_multiply_the_prompt_only_so_far() -> None:
    def pair(turns: int, text: str, choices: int) -> dict[str, Any]:
        asked = {"messages": [{"role": "user", "content": text}] * turns}
        return {
            "request": asked,
            "response": {"id": "r", "choices": [{"message": {"content": "A"}}] * choices},
        }

    assert len(decoded(pair(1, "Q", MAX_CHOICES))) == MAX_CHOICES
    for value, reason in (
        (pair(1, "Q", MAX_CHOICES + 1), "too_many_items"),
        (pair(3, "Q" * 500_000, 100), "too_large"),
    ):
        with pytest.raises(PoisonError) as caught:
            decoded(value)
        assert caught.value.reason == reason
