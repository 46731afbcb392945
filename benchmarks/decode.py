"""What decoding costs: CPU microseconds an event from a record's bytes to its items, one case a format.

    python -m benchmarks.decode --json FILE

The native events are about 1 kB, the size of the other benchmarks; the other formats are the example records of
the tests, which their producers' libraries made.
"""

import argparse
import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.report import ROOT, Result, make_report, print_table, summarize, write_json
from consumers.formats import decode
from sentinel.events import Headers, PromptEvent, RawRecord

EXAMPLES = ROOT / "tests" / "fixtures" / "formats"
JSON_HEADER: Headers = (("content-type", b"application/json"),)
NATIVE = {
    "id": "0f0e6f1d-5a58-4ad5-9d0e-6c3c2b0a3f51",
    "time": "2026-02-02T03:04:05.678Z",
    "source": "support-bot",
    "tenant": "acme",
    "model": "known-model",
    "provider": "vllm",
    "conversation_id": "conversation-77",
    "finish_reason": "stop",
    "usage": {"input_tokens": 100, "output_tokens": 80},
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. " * 4},
        {"role": "user", "content": "How do I do this thing? " * 12},
    ],
    "response": "You do it like this. " * 20,
}


def cases() -> dict[str, tuple[bytes, Headers]]:
    """Value and headers of each case."""
    native = json.dumps(NATIVE).encode()
    with_more = json.dumps({**NATIVE, "experiment": {"arm": "b"}, "build": "2026.2"}).encode()
    found = {
        "native": (native, ()),
        "native, content-type": (native, JSON_HEADER),
        "native, unknown keys": (with_more, JSON_HEADER),
    }
    for case, name in (
        ("cloudevents", "cloudevents/kafka_structured.json"),
        ("openai pair", "openai_pair/plain.json"),
        ("litellm", "litellm/plain.json"),
        ("otlp span, protobuf", "otel_openai_v2/new_plain.traces.bin"),
        ("otlp log event, json", "otel_openai_v2/new_json_plain.logs.json"),
    ):
        found[case] = ((EXAMPLES / name).read_bytes(), ())
    return found


def measure(case: str, value: bytes, headers: Headers, events: int, repetitions: int) -> Result:
    """CPU time of this process for `events` records, divided by them; one event a record."""
    records = [RawRecord("llm.events", 0, n, 1_770_000_000_000, None, value, headers) for n in range(events)]
    (item,) = decode(records[0])
    if not isinstance(item, PromptEvent):
        raise TypeError(f"{case} is not one event: {item}")
    samples = []
    for _ in range(repetitions):
        began = time.process_time()
        for record in records:
            decode(record)
        samples.append((time.process_time() - began) / events * 1e6)
    return summarize(case, f"decode, {len(value)} bytes", "us CPU/event", samples)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every case, print the table, write the JSON where one is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--events", type=int, default=20_000, help="records of one repetition")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args(arguments)
    results = [
        measure(case, value, headers, options.events, options.repetitions)
        for case, (value, headers) in cases().items()
    ]
    libraries = {name: version(name) for name in ("msgspec", "orjson", "protobuf")}
    report = make_report("decode", results, {"sentinel": libraries})
    print_table(report)
    if options.json is not None:
        write_json(report, options.json)


if __name__ == "__main__":
    main()
