"""Example records and what they must decode to, from the answers that the producers' libraries were given."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel.events import Headers, Item, PromptEvent, RawRecord, Rejected

ROOT = Path(__file__).resolve().parents[3] / "fixtures" / "formats"
KNOWN: dict[str, dict[str, Any]] = json.loads((ROOT / "known_answers.json").read_text())
VERSIONS: dict[str, dict[str, str]] = json.loads((ROOT / "VERSIONS.json").read_text())
FILES = sorted(
    path
    for path in ROOT.glob("*/*")
    if path.parent.name != "make" and not path.name.endswith(".headers.json") and path.is_file()
)
NAMES = [f"{path.parent.name}/{path.name}" for path in FILES]

NO_MESSAGES = "the library leaves out turns that hold parts"
NO_REFUSAL = "the library does not record refusals"

OUTCOMES: dict[str, list[str]] = {
    "otel_openai_v2/off_embedding.*": ["not_generation"],
    "otel_openai_v2/off_*": ["no_content"],
    "otel_openai_v2/old_*.traces.*": ["no_content"],
    "openllmetry/off_*": ["no_content"],
    "openllmetry/events_*.traces.*": ["no_content"],
    "openai_node/embedding.*": ["not_generation"],
    "openai_node/*.traces.*": ["no_content"],
    "openinference_openai/hidden_*": ["redacted"],
    "litellm/redacted.json": ["redacted"],
    "langfuse/manual_span.*": ["not_generation"],
}
"""Examples that hold no interaction, by pattern; the first that matches counts."""

PARENTS: dict[str, list[str]] = {
    "vercel_ai/*": ["parent_span"] * 2,
    "vercel_ai5/*": ["parent_span"],
    "vercel_ai_legacy/*": ["parent_span"],
}
"""Spans above the model call that come in the same record."""

LOSSES: dict[str, str] = {
    "otel_openai_v2/new*_parts.*": NO_MESSAGES,
    "openllmetry/spans_parts.*": NO_MESSAGES,
    "openllmetry_old/parts.*": NO_MESSAGES,
    "otel_openai_v2/new_refusal.*": NO_REFUSAL,
    "langfuse/refusal.*": NO_REFUSAL,
    "langfuse_node/two_choices.*": "the library records the first choice only",
}
"""What a library does not report; pinned, so that a new release that does is noticed."""

MANY: dict[str, list[str]] = {
    "litellm/json_array.json": ["plain", "two_choices", "failed"],
    "litellm/ndjson.ndjson": ["plain", "two_choices", "failed"],
    "otel_openai_v2/new_batch.traces.bin.gz": ["plain", "two_choices", "refusal", "embedding"],
    "otel_openai_v2/new_batch.logs.bin.gz": ["plain", "two_choices", "refusal"],
}
"""Records of several calls."""

BY_HAND: dict[str, list[Any]] = {
    "langfuse/manual_json_answer.*": [([("user", "What is two plus two?")], '{"answer": 4}', "")],
    "langfuse/manual_list_answer.*": [([("user", "Hello?")], "Hello to you.", "")],
}

Expected = tuple[list[tuple[str, str]], str, Any]


@dataclass(frozen=True)
class Example:
    """One file with the headers that its transport had."""

    name: str
    value: bytes
    headers: Headers


def load(name: str) -> Example:
    """An example by ``producer/file``."""
    path = ROOT / name
    headers = json.loads(path.with_name(f"{path.name}.headers.json").read_text())
    return Example(name, path.read_bytes(), tuple((key, value.encode()) for key, value in headers.items()))


def record(value: bytes | None, headers: Headers = (), offset: int = 7) -> RawRecord:
    """A record of a topic as a source hands it out."""
    return RawRecord("llm.events", 3, offset, 1_770_000_000_000, None, value, headers, 1, "cluster")


def matching(table: Mapping[str, Any], name: str) -> Any:
    """Value of the first pattern that matches, or None."""
    return next((value for pattern, value in table.items() if fnmatch.fnmatch(name, pattern)), None)


def scenario(name: str) -> str:
    """The scenario that a file is about: the longest that its name ends with."""
    stem = name.partition("/")[2].partition(".")[0]
    return max((s for s in KNOWN if stem == s or stem.endswith(f"_{s}")), key=len)


def expected(name: str) -> list[Any]:
    """What `seen` must give: reasons, and (turns, answer, further text)."""
    for table in (OUTCOMES, BY_HAND):
        if (found := matching(table, name)) is not None:
            return list(found)
    items = []
    for one in MANY.get(name) or [scenario(name)]:
        batch = name.replace("batch", one) if name in MANY else name
        items += _expected_of(one, matching(LOSSES, batch))
    # In a batch, spans of other instruments come after: order by where the reporter put them.
    return items + (matching(PARENTS, name) or [])


def _expected_of(one: str, loss: str | None) -> list[Any]:
    known = KNOWN[one]
    if known["api"] == "embeddings":
        return ["not_generation"]
    if not known["choices"]:
        return ["failed_call"]
    turns = [] if loss == NO_MESSAGES else _turns(known["request"])
    answers: list[Any] = []
    for choice in known["choices"]:
        text = choice.get("content") or ("" if loss == NO_REFUSAL else choice.get("refusal")) or ""
        answers.append((turns, text, _further(choice)))
    return answers[:1] if loss and "first choice" in loss else answers


def _turns(request: dict[str, Any]) -> list[tuple[str, str]]:
    turns = [("system", request["instructions"])] if "instructions" in request else []
    held: Any = request.get("messages", request.get("input"))
    if isinstance(held, str):
        return [*turns, ("user", held)]
    for message in held:
        content = message["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        turns.append((message["role"], text))
    return turns


def _further(choice: dict[str, Any]) -> Any:
    lines: list[Any] = [choice["reasoning"]] if "reasoning" in choice else []
    for call in choice.get("tool_calls", ()):
        lines.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
    return lines or ""


def seen(items: list[Item]) -> list[Any]:
    """Items in the form of `expected`: arguments of tool calls compare as values, not as text."""
    shown: list[Any] = []
    for item in items:
        if isinstance(item, PromptEvent):
            shown.append(
                ([(m.role, m.text) for m in item.messages], item.response, _lines(item.response_extra))
            )
        else:
            shown.append(item.reason if not isinstance(item, Rejected) else f"rejected {item.reason}")
    return shown


def _lines(extra: str) -> Any:
    lines: list[Any] = []
    for line in extra.splitlines():
        called, found, arguments = line.partition(" {")
        lines.append((called, json.loads("{" + arguments)) if found else line)
    return lines or ""
