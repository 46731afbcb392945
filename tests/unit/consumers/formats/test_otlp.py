"""OTLP: the traps that real producers set, and the encodings that exporters choose."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from consumers.formats.drafts import MAX_ITEMS
from sentinel.errors import PoisonError
from sentinel.events import PromptEvent, Rejected
from tests.unit.consumers.formats.by_hand import (
    SPAN,
    TRACE,
    attributes,
    decoded,
    log,
    logs,
    only,
    reasons,
    span,
    spans,
)
from tests.unit.consumers.formats.examples import seen

CHAT: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
ASKED = [{"role": "user", "parts": [{"type": "text", "content": "Q"}]}]
SAID = [{"role": "assistant", "parts": [{"type": "text", "content": "A"}], "finish_reason": "stop"}]
CALL: dict[str, Any] = {**CHAT, "gen_ai.input.messages": ASKED, "gen_ai.output.messages": SAID}
DETAILS = "gen_ai.client.inference.operation.details"


def test_messages_structured_or_as_text_are_the_same() -> None:
    texts = {key: json.dumps(v) if isinstance(v, list) else v for key, v in CALL.items()}
    assert (
        seen(decoded(spans(span(CALL)))) == seen(decoded(spans(span(texts)))) == [([("user", "Q")], "A", "")]
    )


def test_resource_names_source_and_tenant() -> None:
    raw = spans(span(CALL), **{"service.name": "bot", "service.namespace": "acme", "service.version": "3"})
    event = only(raw)
    assert (event.source, event.tenant, event.attrs) == (
        "bot", "acme", {"gen_ai.operation.name": "chat", "service.version": "3"},
    )  # fmt: skip
    assert (event.trace_id, event.span_id) == (TRACE, SPAN)


def test_a_call_without_response_id_is_named_by_trace_and_span() -> None:
    as_span, as_log = only(spans(span(CALL))), only(logs(log(DETAILS, CALL)))
    assert as_span.event_id == as_log.event_id
    assert as_span.identified
    named = {**CALL, "gen_ai.response.id": "r-1"}
    assert only(spans(span(named))).event_id == only(logs(log(DETAILS, named))).event_id != as_span.event_id


def test_input_and_output_in_two_events_are_joined() -> None:
    asked = log(DETAILS, {"gen_ai.input.messages": ASKED})
    said = log(DETAILS, {"gen_ai.output.messages": SAID})
    assert (
        seen(decoded(logs(asked, said))) == seen(decoded(logs(said, asked))) == [([("user", "Q")], "A", "")]
    )
    assert reasons(logs(asked)) == ["no_content"]
    assert seen(decoded(logs(said))) == [([], "A", "")]


def test_details_of_two_calls_are_not_joined() -> None:
    other = log(DETAILS, {"gen_ai.output.messages": SAID}, spanId="00f067aa0ba902b7")
    assert seen(decoded(logs(log(DETAILS, {"gen_ai.input.messages": ASKED}), other))) == [
        "no_content",
        ([], "A", ""),
    ]


@pytest.mark.parametrize("key", ["eventName", "event_name"])
def test_event_name_under_either_key(key: str) -> None:
    held = log(DETAILS, CALL)
    held[key] = held.pop("eventName")
    assert only(logs(held)).response == "A"


def test_event_name_as_an_attribute() -> None:
    held = log("", {**CALL, "event.name": DETAILS})
    del held["eventName"]
    assert only(logs(held)).response == "A"


def test_turns_as_events_without_ids_make_one_call_each() -> None:
    def turn(event: str, body: Any) -> dict[str, Any]:
        held = log(event, {"gen_ai.system": "openai"})
        del held["traceId"], held["spanId"]
        return {**held, "body": {"stringValue": json.dumps(body)}}

    turns = [
        turn("gen_ai.user.message", {"content": "Q1"}),
        turn("gen_ai.choice", {"index": 0, "message": {"content": "A1"}}),
        turn("gen_ai.user.message", {"content": "Q2"}),
        turn("gen_ai.choice", {"index": 0, "message": {"content": "A2"}}),
        turn("gen_ai.choice", {"index": 1, "message": {"content": "B2"}}),
    ]
    items = decoded(logs(*turns))
    assert seen(items) == [
        ([("user", "Q1")], "A1", ""),
        ([("user", "Q2")], "A2", ""),
        ([("user", "Q2")], "B2", ""),
    ]
    assert [isinstance(i, PromptEvent) and i.identified for i in items] == [False] * 3
    assert len({i.event_id for i in items if isinstance(i, PromptEvent)}) == 3


def test_time_zero_falls_back_to_the_observed_time() -> None:
    event = only(logs(log(DETAILS, CALL, timeUnixNano="0")))
    assert event.event_time is not None
    assert event.event_time.isoformat() == "2026-02-02T02:40:00+00:00"


@pytest.mark.parametrize(
    "tokens", [{"intValue": "12"}, {"intValue": 12}, {"doubleValue": 12.0}, {"stringValue": "12"}]
)
def test_integers_come_as_text_and_as_numbers(tokens: dict[str, Any]) -> None:
    held = span(CALL)
    held["attributes"].append({"key": "gen_ai.usage.input_tokens", "value": tokens})
    assert only(spans(held)).input_tokens == 12


@pytest.mark.parametrize("huge", ["9" * 19, "9" * 400, "-1", "many", ""])
def test_counts_that_no_column_holds_are_dropped(huge: str) -> None:
    held = span(CALL)
    held["attributes"].append({"key": "gen_ai.usage.input_tokens", "value": {"intValue": huge}})
    assert only(spans(held)).input_tokens in (None, 0)


def test_null_and_bytes_values_are_not_texts() -> None:
    parts = [{"role": "user", "parts": [{"type": "blob", "mime_type": "image/png", "data": None}]}]
    held = span({**CALL, "gen_ai.input.messages": parts})
    inner = held["attributes"][2]["value"]["arrayValue"]["values"][0]["kvlistValue"]["values"][1]["value"][
        "arrayValue"
    ]
    inner["values"][0]["kvlistValue"]["values"][2]["value"] = {
        "bytesValue": base64.b64encode(b"\x00png").decode()
    }
    event = only(spans(held))
    assert (event.messages[0].text, event.unscanned_parts) == ("", 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"gen_ai.operation.name": "embeddings", "gen_ai.input.messages": ASKED}, "not_generation"),
        ({"gen_ai.operation.name": "execute_tool"}, "not_generation"),
        ({**CALL, "gen_ai.operation.name": "invoke_agent"}, "parent_span"),
        ({"llm.request.type": "embedding", "gen_ai.prompt.0.content": "x"}, "not_generation"),
        ({"llm.request.type": "rerank", "gen_ai.prompt.0.content": "x"}, "not_generation"),
        ({"openinference.span.kind": "EMBEDDING", "input.value": "x"}, "not_generation"),
        ({"openinference.span.kind": "CHAIN", "input.value": "Q", "output.value": "A"}, "parent_span"),
        ({"ai.operationId": "ai.embed.doEmbed", "gen_ai.request.model": "m"}, "not_generation"),
        ({"ai.operationId": "ai.streamText", "ai.response.text": "A"}, "parent_span"),
        ({"langfuse.observation.type": "agent", "langfuse.observation.output": "A"}, "parent_span"),
        ({"langfuse.observation.type": "tool", "langfuse.observation.output": "A"}, "not_generation"),
        ({"traceloop.span.kind": "workflow", "traceloop.entity.input": "Q"}, "parent_span"),
        ({"http.request.method": "GET"}, "not_generation"),
        (CHAT, "no_content"),
        ({**CHAT, "gen_ai.input.messages": ASKED}, "no_content"),
        ({**CHAT, "gen_ai.input.messages": ASKED, "error.type": "timeout"}, "failed_call"),
        ({**CALL, "gen_ai.output.messages": [{"role": "assistant", "content": "FILTERED"}]}, "redacted"),
        ({**CALL, "gen_ai.input.messages": [{"role": "user", "content": "__REDACTED__"}]}, "redacted"),
        ({**CALL, "x-sentinel-origin": "guard"}, "own_traffic"),
        ({**CALL, "http.request.header.x-sentinel-origin": ["reprompt"]}, "own_traffic"),
    ],
)  # fmt: skip
def test_spans_that_are_no_interaction(values: dict[str, Any], reason: str) -> None:
    assert reasons(spans(span(values))) == [reason]


def test_embeddings_that_langfuse_calls_generation() -> None:
    values = {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": "x",
        "langfuse.observation.output": "",
    }
    assert reasons(spans(span(values, name="OpenAI.embeddings"))) == ["not_generation"]
    assert reasons(spans(span(values, name="OpenAI.chat"))) == ["event"]


def test_an_empty_answer_is_an_event_not_missing_content() -> None:
    for said in ([], [{"role": "assistant", "parts": []}], [{"role": "assistant", "content": ""}]):
        event = only(spans(span({**CALL, "gen_ai.output.messages": said})))
        assert (event.response, event.response_extra) == ("", "")


def test_a_failed_call_with_an_answer_is_still_judged() -> None:
    assert only(spans(span({**CALL, "error.type": "cut"}, status={"code": 2}))).response == "A"
    assert reasons(
        spans(span({**CHAT, "gen_ai.input.messages": ASKED}, status={"code": "STATUS_CODE_ERROR"}))
    ) == ["failed_call"]


def test_tool_calls_whose_arguments_were_withheld_are_no_content() -> None:
    choice = {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {"tool_calls": [{"function": {"name": "f"}}]},
    }
    assert reasons(logs(log("gen_ai.choice", body={"stringValue": json.dumps(choice)}))) == ["no_content"]


def test_uploaded_contents_are_a_dead_letter() -> None:
    values = {**CHAT, "gen_ai.output.messages_ref": "s3://bucket/key"}
    with pytest.raises(PoisonError) as caught:
        decoded(spans(span(values)))
    assert caught.value.reason == "unsupported_schema"


def test_texts_cut_by_an_attribute_limit_are_read_as_they_are() -> None:
    cut = json.dumps(SAID)[:40]
    assert only(spans(span({**CALL, "gen_ai.output.messages": cut}))).response == cut


def test_span_events_of_early_conventions() -> None:
    def event(name: str, key: str, value: Any) -> dict[str, Any]:
        return {"name": name, "attributes": attributes({key: json.dumps(value)})}

    whole = [
        event("gen_ai.content.prompt", "gen_ai.prompt", [{"role": "user", "content": "Q"}]),
        event("gen_ai.content.completion", "gen_ai.completion", [{"role": "assistant", "content": "A"}]),
    ]
    turns = [
        event("gen_ai.user.message", "gen_ai.event.content", {"content": "Q"}),
        event("gen_ai.choice", "gen_ai.event.content", {"message": {"content": "A"}}),
    ]
    for events in (whole, turns):
        assert seen(decoded(spans(span(CHAT, events=events)))) == [([("user", "Q")], "A", "")]


def test_numbered_attributes_in_any_order_and_from_one() -> None:
    values = {
        **CHAT, "gen_ai.prompt.10.content": "third", "gen_ai.prompt.10.role": "user",
        "gen_ai.prompt.2.role": "assistant", "gen_ai.prompt.2.content": "second",
        "gen_ai.prompt.1.role": "user", "gen_ai.prompt.1.content": "first",
        "gen_ai.completion.1.content": "A", "gen_ai.completion.2.content": "B",
    }  # fmt: skip
    items = decoded(spans(span(values)))
    turns = [("user", "first"), ("assistant", "second"), ("user", "third")]
    assert seen(items) == [(turns, "A", ""), (turns, "B", "")]
    assert [i.choice for i in items if isinstance(i, PromptEvent)] == [0, 1]


def test_openinference_without_messages_has_the_whole_bodies() -> None:
    values = {
        "openinference.span.kind": "LLM",
        "input.value": "Q",
        "output.value": "A",
        "llm.model_name": "m",
    }
    assert seen(decoded(spans(span(values)))) == [([("user", "Q")], "A", "")]


def test_langfuse_answers_stay_what_they_are() -> None:
    def answer(output: str, **more: Any) -> list[Any]:
        held = {
            "langfuse.observation.type": "generation",
            "langfuse.observation.input": "Q",
            "langfuse.observation.output": output,
        }
        return seen(decoded(spans(span({**held, **more}))))

    turns = [("user", "Q")]
    assert answer('{"answer": 4}') == [(turns, '{"answer": 4}', "")]
    assert answer("[1, 2]") == [(turns, "[1, 2]", "")]
    two = json.dumps([{"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}])
    assert answer(two) == [(turns, "A\nB", "")]
    parameters = {"langfuse.observation.model.parameters": '{"n": 2}'}
    assert answer(two, **parameters) == [(turns, "A", ""), (turns, "B", "")]


def test_vercel_reads_the_call_below_the_turn() -> None:
    values = {
        "ai.operationId": "ai.generateText.doGenerate", "ai.prompt": '{"system": "S", "prompt": "Q"}',
        "ai.response.text": "A", "ai.response.reasoning": "because",
    }  # fmt: skip
    assert seen(decoded(spans(span(values)))) == [([("system", "S"), ("user", "Q")], "A", ["because"])]


def test_a_flat_object_with_dotted_keys() -> None:
    flat = {
        **CALL,
        "gen_ai.response.id": "r-1",
        "service.namespace": "acme",
        "time": "2026-01-01T00:00:00Z",
        "id": "x",
    }
    event = only(flat)
    assert (event.format, event.response, event.response_id, event.tenant) == (
        "otlp-flat",
        "A",
        "r-1",
        "acme",
    )
    same = spans(span({**CALL, "gen_ai.response.id": "r-1"}), **{"service.namespace": "acme"})
    assert event.event_id == only(same).event_id


def test_a_bad_entry_does_not_take_the_others_with_it() -> None:
    deep: Any = "x"
    for _ in range(80):
        deep = [deep]
    bad = {**CALL, "gen_ai.output.messages": json.dumps(deep)}
    items = decoded(spans(span(CALL), span(bad, spanId="00f067aa0ba902b7")))
    assert isinstance(items[0], PromptEvent)
    assert isinstance(items[1], Rejected)
    assert (items[1].reason, items[1].origin.item) == ("too_deep", 1)


def test_ids_in_base64_are_the_same_ids() -> None:
    """Generic JSON writers of protobuf libraries write bytes in base64."""
    held = span(CALL)
    held["traceId"] = base64.b64encode(bytes.fromhex(TRACE)).decode()
    held["spanId"] = base64.b64encode(bytes.fromhex(SPAN)).decode()
    assert only(spans(held)).event_id == only(spans(span(CALL))).event_id


def test_snake_case_keys_of_the_proto_files() -> None:
    text = spans(span(CALL)).decode()
    for camel, snake in (
        ("resourceSpans", "resource_spans"),
        ("scopeSpans", "scope_spans"),
        ("traceId", "trace_id"),
    ):
        text = text.replace(camel, snake)
    assert only(text.encode()).response == "A"


def test_metrics_and_empty_requests_hold_nothing() -> None:
    assert decoded({"resourceMetrics": []}) == []
    assert decoded({"resourceSpans": []}) == []


def test_gzip_by_its_first_bytes_and_broken_gzip() -> None:
    raw = spans(span(CALL))
    packed = gzip.compress(raw)
    assert only(packed) == only(raw)
    for broken in (packed[:-9], packed[:20], b"\x1f\x8b" + b"\x00" * 40):
        with pytest.raises(PoisonError) as caught:
            decoded(broken)
        assert caught.value.reason == "invalid_encoding"


def test_a_compressed_bomb_is_refused_before_it_is_opened() -> None:
    with pytest.raises(PoisonError) as caught:
        decoded(gzip.compress(b" " * (33 * 1024 * 1024), compresslevel=1))
    assert caught.value.reason == "too_large"


def test_more_items_than_an_offset_may_hold() -> None:
    with pytest.raises(PoisonError) as caught:
        decoded(spans(*[{"spanId": SPAN}] * (MAX_ITEMS + 1)))
    assert caught.value.reason == "too_many_items"


def test_protobuf_that_is_neither_spans_nor_logs() -> None:
    for raw in (b"\n\x00", b"\xff\xff\xff", b"\x0a\x05abcde"):
        with pytest.raises(PoisonError) as caught:
            decoded(raw, (("content-type", b"application/x-protobuf"),))
        assert caught.value.reason == "invalid_protobuf"


def test_a_length_byte_that_looks_like_json() -> None:
    """Field 1 is a line feed, and a group of 123 bytes begins with an opening brace."""
    request = ExportTraceServiceRequest()
    one = request.resource_spans.add().scope_spans.add().spans.add()
    one.trace_id, one.span_id = bytes.fromhex(TRACE), bytes.fromhex(SPAN)
    request.resource_spans[0].resource.SetInParent()
    while (raw := request.SerializeToString())[:2] != b"\n{":
        assert len(raw) < 200
        one.name += "n"
    assert reasons(raw) == ["not_generation"]
    assert reasons(raw, (("content-type", b"application/x-protobuf"),)) == ["not_generation"]
