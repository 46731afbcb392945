"""Every example made by a producer's library decodes to the answers that the library was given."""

from __future__ import annotations

import collections
import gzip
import json
import re

import pytest

from consumers.formats import TOPIC_FORMATS, decode
from sentinel.events import PromptEvent
from sentinel.outcomes import IGNORED_REASONS
from tests.unit.consumers.formats.examples import (
    FILES,
    KNOWN,
    LOSSES,
    MANY,
    NAMES,
    OUTCOMES,
    ROOT,
    VERSIONS,
    expected,
    load,
    matching,
    record,
    scenario,
    seen,
)

TOPIC_FORMAT = {"native": "native", "litellm": "litellm", "openai_pair": "openai", "cloudevents": None}


def test_the_examples_are_there_and_each_producer_is_named() -> None:
    per_producer = collections.Counter(path.parent.name for path in FILES)
    assert sum(per_producer.values()) > 120
    assert set(per_producer) == set(VERSIONS)
    assert all(VERSIONS[producer] for producer in per_producer)
    # The formats that the product promises, each from its own library.
    assert {"native", "cloudevents", "litellm", "openai_pair", "otel_openai_v2", "openllmetry_old"} <= set(
        VERSIONS
    )


def test_the_tables_of_exceptions_name_existing_files() -> None:
    for table in (OUTCOMES, LOSSES, MANY):
        for pattern in table:
            assert any(matching({pattern: True}, name) for name in [*NAMES, *_batch_names()]), pattern


def _batch_names() -> list[str]:
    return [name.replace("batch", one) for name, held in MANY.items() for one in held]


def test_every_scenario_has_examples_of_several_producers() -> None:
    producers: dict[str, set[str]] = collections.defaultdict(set)
    for name in NAMES:
        if name not in MANY and "manual" not in name and "redacted" not in name:
            producers[scenario(name) if "cloudevents" not in name else "plain"].add(name.partition("/")[0])
    assert set(producers) == set(KNOWN)
    assert all(len(made_by) >= 5 for made_by in producers.values()), producers


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_small_and_name_no_machine(name: str) -> None:
    example = load(name)
    assert 0 < len(example.value) < 30_000
    plain = gzip.decompress(example.value) if example.value[:2] == b"\x1f\x8b" else example.value
    for folder in re.findall(rb'File \*"(/[^"]+)/lib/python', plain):
        assert folder.startswith(b"/env"), folder


def wanted(name: str) -> list[object]:
    return expected("cloudevents/plain.json" if name.startswith("cloudevents/") else name)


@pytest.mark.parametrize("name", NAMES)
def test_example_decodes_to_the_known_answer(name: str) -> None:
    example = load(name)
    items = decode(record(example.value, example.headers))
    assert seen(items) == wanted(name)
    assert [item.origin.item for item in items] == list(range(len(items)))
    for item in items:
        if not isinstance(item, PromptEvent):
            assert item.reason in IGNORED_REASONS
            continue
        assert item.identified == (name != "native/minimal_stream.json")
        assert item.origin.offset == 7
        assert item.received_ms == 1_770_000_000_000
        assert item.event_time is not None or name == "native/minimal_stream.json"


@pytest.mark.parametrize("name", [name for name in NAMES if "binary" not in name])
def test_example_without_headers_decodes_the_same(name: str) -> None:
    """A Collector's Kafka exporter writes no content type at all."""
    example = load(name)
    assert decode(record(example.value)) == decode(record(example.value, example.headers))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "openai_pair" not in name or "cloudevents" not in name]
)
def test_example_under_its_topics_setting_decodes_the_same(name: str) -> None:
    example = load(name)
    topic_format = TOPIC_FORMAT.get(name.partition("/")[0], "otlp")
    assert topic_format is None or topic_format in TOPIC_FORMATS
    assert decode(record(example.value, example.headers), topic_format) == decode(
        record(example.value, example.headers)
    )


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.startswith(("litellm/", "openai_pair/", "otel_openai_v2/new"))]
)
def test_ids_models_and_usage(name: str) -> None:
    example = load(name)
    for item in decode(record(example.value, example.headers)):
        if isinstance(item, PromptEvent):
            one = str(item.response_id).partition("known")[2][1:]
            assert item.response_id == ("resp_known_" if "resp" in one else "chatcmpl-known-") + one
            assert item.model in {"known-model", "known-model-001"}
            assert [item.input_tokens, item.output_tokens] == KNOWN[one]["usage"]
            assert item.finish_reason == KNOWN[one]["choices"][item.choice]["finish_reason"]


def test_one_call_as_span_and_as_log_event_is_one_interaction() -> None:
    spans = {name for name in NAMES if name.startswith("otel_openai_v2/new") and ".traces." in name}
    compared = 0
    for name in sorted(spans):
        log_name = name.replace(".traces.", ".logs.")
        if log_name not in NAMES:
            continue
        span, log = (decode(record(load(n).value, load(n).headers)) for n in (name, log_name))
        ids = [[i.event_id for i in items if isinstance(i, PromptEvent)] for items in (span, log)]
        assert ids[0] == ids[1]
        compared += len(ids[0])
    assert compared > 15


@pytest.mark.parametrize("one", ["plain", "two_choices", "tool_call", "stream"])
def test_reporters_of_one_call_agree_on_its_text(one: str) -> None:
    """Another text under the same id would be stored as a second interaction."""
    texts: dict[object, set[tuple[str, str]]] = collections.defaultdict(set)
    for name in NAMES:
        if name not in MANY and scenario_or_none(name) == one:
            for item in decode(record(load(name).value, load(name).headers)):
                if isinstance(item, PromptEvent) and item.response_id:
                    texts[item.response_id, item.choice].add((item.last_user_text, item.scanned_response))
    assert texts
    assert all(len(found) == 1 for found in texts.values()), texts


def scenario_or_none(name: str) -> str | None:
    return None if "cloudevents" in name or "manual" in name or "redacted" in name else scenario(name)


def test_the_same_call_through_other_reporters_is_one_interaction() -> None:
    """Response id, tenant and choice are the identity; the reporter is not."""

    def ids_of(name: str) -> set[object]:
        return {
            i.event_id
            for i in decode(record(load(name).value, load(name).headers))
            if isinstance(i, PromptEvent)
        }

    reporters = [
        ids_of(name)
        for name in (
            "otel_openai_v2/new_two_choices.logs.bin", "openllmetry/spans_two_choices.traces.bin",
            "openllmetry_old/two_choices.traces.bin", "openinference_openai/spans_two_choices.traces.bin",
            "otel_openai_v2/new_json_two_choices.traces.json",
        )
    ]  # fmt: skip
    assert len(reporters[0]) == 2
    assert all(ids == reporters[0] for ids in reporters)
    pair = json.loads(load("openai_pair/two_choices.json").value) | {"tenant": "acme"}
    assert {
        i.event_id for i in decode(record(json.dumps(pair).encode())) if isinstance(i, PromptEvent)
    } == reporters[0]


def test_response_ids_of_the_gateway_are_unwrapped() -> None:
    (item,) = decode(record(load("litellm/responses.json").value))
    assert isinstance(item, PromptEvent)
    assert item.response_id == "resp_known_responses"


def test_known_answers_are_the_servers_own() -> None:
    assert (ROOT / "make" / "model_server.py").exists()
    assert len(KNOWN) == 10
