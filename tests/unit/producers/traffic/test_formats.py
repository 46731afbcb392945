"""Whatever traffic writes, the daemon reads as the same exchange."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from consumers.formats import TOPIC_FORMATS, decode
from producers.traffic.events import Exchange, Record, is_answer
from producers.traffic.formats import FORMATS, Format, compressed
from sentinel.events import PromptEvent, RawRecord

SENT = dt.datetime(2026, 11, 21, 10, 30, 0, 123456, tzinfo=dt.UTC)
ANSWERED = SENT + dt.timedelta(seconds=0.5)

TEXTS = [
    ("What is the capital of France?", "Paris."),
    ('{"messages": [1, 2]} \u2603 \u5b89\u5168 \U0001f600', '[{"type": "text"}]\n\nline two'),
    ("Say nothing.", ""),
    ("  spaces stay\t", '"quoted" \\ and \r\n ended'),
]


def exchange(prompt: str, answer: str, **changes: Any) -> Exchange:
    number = uuid4()
    body = {
        "id": f"chatcmpl-{number.hex}",
        "object": "chat.completion",
        "created": int(ANSWERED.timestamp()),
        "model": "answering-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    values: dict[str, Any] = {
        "event_id": number,
        "sent_at": SENT,
        "answered_at": ANSWERED,
        "model": "asked-model",
        "prompt": prompt,
        "body": body,
    }
    return Exchange(**(values | changes))


def records(held: Format, exchanges: Sequence[Exchange], compress: bool) -> list[Record]:
    groups = [exchanges] if held.several else [[one] for one in exchanges]
    made = [held.encode(group) for group in groups]
    return [compressed(record) for record in made] if compress else made


def read(record: Record, topic_format: str | None = None) -> list[PromptEvent]:
    value, headers = record
    items = decode(RawRecord("llm.events", 0, 7, 0, None, value, tuple(headers)), topic_format)
    assert all(isinstance(item, PromptEvent) for item in items), items
    return [item for item in items if isinstance(item, PromptEvent)]


def seen(event: PromptEvent) -> tuple[object, ...]:
    (turn,) = event.messages
    return (
        turn.role, turn.text, event.response, event.response_extra, event.model, event.response_id,
        event.finish_reason, event.input_tokens, event.output_tokens, event.choice, event.identified,
        event.unscanned_parts,
    )  # fmt: skip


def wanted(one: Exchange, name: str) -> tuple[object, ...]:
    finish = "completed" if name == "openai-responses" else "stop"
    body = one.body
    return ("user", one.prompt, one.answer, "", "answering-model", body["id"], finish, 7, 3, 0, True, 0)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_as_the_same_exchange(name: str, compress: bool) -> None:
    exchanges = [exchange(prompt, answer) for prompt, answer in TEXTS]
    written = records(FORMATS[name], exchanges, compress)
    assert all((record[0][:2] == b"\x1f\x8b") == compress for record in written)
    events = [event for record in written for event in read(record)]
    assert [seen(event) for event in events] == [wanted(one, name) for one in exchanges]
    for event in events:
        assert event.event_time is not None
        assert abs(event.event_time - SENT) <= dt.timedelta(seconds=1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_topics_setting_reads_it_too(name: str) -> None:
    topic_format = name.partition("-")[0]
    assert topic_format in TOPIC_FORMATS
    for record in records(FORMATS[name], [exchange(*TEXTS[0])], compress=False):
        if name != "cloudevents-binary":  # what such a topic holds by name are structured events
            assert [seen(event) for event in read(record, topic_format)] == [
                seen(event) for event in read(record)
            ]


def test_one_exchange_is_one_interaction_in_every_format() -> None:
    one = exchange(*TEXTS[0])
    ids: set[UUID] = set()
    for held in FORMATS.values():
        (event,) = read(held.encode([one]))
        ids.add(event.event_id)
    assert len(ids) == 1


def test_formats_differ() -> None:
    one = exchange(*TEXTS[0])
    records_of = {name: FORMATS[name].encode([one]) for name in FORMATS}
    assert len({(value, tuple(headers)) for value, headers in records_of.values()}) == len(FORMATS)
    # A single line of JSON is the object itself; only the media type tells them apart.
    assert records_of["litellm"][0] == records_of["litellm-ndjson"][0]
    kinds = {read(record)[0].format for record in records_of.values()}
    assert kinds == {"native", "otlp-span", "otlp-log", "litellm", "openai"}


def test_answers_without_id_model_and_usage_are_written_too() -> None:
    bare = exchange("Hello", "Good day", body={"choices": [{"message": {"content": "Good day"}}]})
    for name, held in FORMATS.items():
        (event,) = read(held.encode([bare]))
        assert (event.last_user_text, event.response, event.model) == ("Hello", "Good day", "asked-model"), (
            name
        )
        assert event.response_id is None
        assert event.identified == (not name.startswith("openai")), name


def test_an_answer_that_was_cut_says_so() -> None:
    body = exchange("a", "b").body
    body["choices"][0]["finish_reason"] = "length"
    for name, held in FORMATS.items():
        (event,) = read(held.encode([exchange("a", "b", body=body)]))
        assert event.finish_reason == ("max_output_tokens" if name == "openai-responses" else "length")


def test_the_adapter_that_answered_is_told_where_the_format_has_a_place() -> None:
    one = exchange("a", "b", served_by="adapter-1")
    for name in ("native", "cloudevents", "cloudevents-binary", "cloudevents-batch"):
        (event,) = read(FORMATS[name].encode([one]))
        assert event.served_by == "adapter-1"


@pytest.mark.parametrize(
    "body", [None, [], {}, {"choices": []}, {"choices": [{}]}, {"error": {"message": "x"}}]
)
def test_what_is_no_answer_is_known(body: object) -> None:
    assert not is_answer(body)
