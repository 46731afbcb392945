"""Evaluation sets from files: our own JSONL and CSV, and tables of HarmBench's and XSTest's form.

JSONL      by its ending                 ``prompt`` or ``messages``; ``id``, ``family``, ``reference`` where they are
HarmBench  ``Behavior``, ``BehaviorID``  the behaviour, after its context; family: ``SemanticCategory``
XSTest     ``prompt``, ``type``,         ``prompt`` of the rows whose label fits the set's kind; family: ``type``
           ``focus``
other CSV  ``prompt``                    as JSONL's

The forms are those of the tables published with Mazeika et al. 2024 (HarmBench) and Röttger et al. 2024 (XSTest).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from sentinel.errors import ConfigurationError
from sentinel.events import Message
from trainer.evaluation.items import SetItem, item_id
from trainer.evidence import SetKind

_ROLES: Final = frozenset({"system", "user", "assistant"})
_LARGEST_TEXT: Final = 1 << 20
"""Characters of one field; a table whose quotes are broken would be read as one endless field."""


def read_items(path: Path, kind: SetKind) -> tuple[SetItem, ...]:
    """The items of a file, by its form.

    Raises:
        ConfigurationError: it cannot be read, or a row is malformed or comes twice; names file and line.
    """
    try:
        if path.suffix.lower() == ".jsonl":
            rows = _read_jsonl(path)
        elif path.suffix.lower() == ".csv":
            rows = _read_csv(path, kind)
        else:
            raise ConfigurationError(f"{path}: an evaluation set is a .jsonl or .csv file")
        found = _distinct(path, rows)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from error
    if not found:
        raise ConfigurationError(f"{path}: holds no prompt for a {kind.value} set")
    return found


def _distinct(path: Path, rows: Iterator[tuple[int, SetItem]]) -> tuple[SetItem, ...]:
    lines: dict[str, int] = {}
    found = []
    for line, item in rows:
        # Arms are paired by id: with two of one name an answer would be compared with another prompt's.
        if item.id in lines:
            raise _malformed(path, line, f"the same id or prompt as in line {lines[item.id]}")
        lines[item.id] = line
        found.append(item)
    return tuple(found)


def _malformed(path: Path, line: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path}:{line}: {why}")


def _read_jsonl(path: Path) -> Iterator[tuple[int, SetItem]]:
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise _malformed(path, line, f"not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise _malformed(path, line, "not a JSON object")
            yield line, _item(path, line, row, _messages(path, line, row))


def _messages(path: Path, line: int, row: Mapping[str, Any]) -> tuple[Message, ...]:
    if ("prompt" in row) == ("messages" in row):
        raise _malformed(path, line, "needs either prompt or messages")
    if "prompt" in row:
        return (Message("user", _text(path, line, row, "prompt")),)
    turns = row["messages"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise _malformed(path, line, "messages must be a list of {role, content}")
    made = []
    for turn in turns:
        if turn.get("role") not in _ROLES:
            raise _malformed(path, line, f"a role must be one of {', '.join(sorted(_ROLES))}")
        made.append(Message(turn["role"], _text(path, line, turn, "content")))
    if made[-1].role != "user":
        raise _malformed(path, line, "the last turn must be the user's")
    return tuple(made)


def _text(path: Path, line: int, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _malformed(path, line, f"{name} must be a text that is not empty")
    return value.replace("\0", "\ufffd")


def _item(path: Path, line: int, row: Mapping[str, Any], messages: tuple[Message, ...]) -> SetItem:
    optional: dict[str, str | None] = {}
    for name in ("id", "family", "reference"):
        value = row.get(name)
        if value is None or value == "":
            optional[name] = None
        elif name == "id" and isinstance(value, int) and not isinstance(value, bool):
            optional[name] = str(value)
        elif isinstance(value, str):
            optional[name] = value
        else:
            raise _malformed(path, line, f"{name} must be a text")
    return SetItem(
        id=optional["id"] or item_id(messages),
        messages=messages,
        family=optional["family"] or "",
        reference=optional["reference"],
    )


def _read_csv(path: Path, kind: SetKind) -> Iterator[tuple[int, SetItem]]:
    csv.field_size_limit(_LARGEST_TEXT)
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file, strict=True)
        try:
            columns = frozenset(table.fieldnames or ())
            read = _reader(path, columns, kind)
            for row in table:
                line = table.line_num
                if None in row or None in row.values():
                    raise _malformed(path, line, f"has not the {len(columns)} fields of the header")
                fields = read(path, line, row, kind)
                if fields is not None:
                    yield line, _item(path, line, fields, (Message("user", fields["prompt"]),))
        except csv.Error as error:
            raise _malformed(path, table.line_num, f"not CSV: {error}") from error


def _reader(path: Path, columns: frozenset[str], kind: SetKind) -> Any:
    if {"Behavior", "BehaviorID"} <= columns:
        if kind is not SetKind.HARMFUL:
            raise ConfigurationError(
                f"{path}: HarmBench's behaviours make a harmful set, not a {kind.value} one"
            )
        return _harmbench
    if {"prompt", "type", "focus"} <= columns:
        return _xstest
    if "prompt" in columns:
        return _plain
    found = ", ".join(sorted(columns)) or "none"
    raise ConfigurationError(f"{path}:1: a column named prompt or Behavior is needed; found: {found}")


def _plain(path: Path, line: int, row: Mapping[str, str], _: SetKind) -> dict[str, str]:
    return {**row, "prompt": _text(path, line, row, "prompt")}


def _harmbench(path: Path, line: int, row: Mapping[str, str], _: SetKind) -> dict[str, str]:
    prompt = _text(path, line, row, "Behavior")
    # Contextual behaviours make no sense without the text that they speak of.
    if context := row.get("ContextString", "").strip():
        prompt = f"{context}\n\n---\n\n{prompt}"
    return {
        "id": _text(path, line, row, "BehaviorID"),
        "prompt": prompt,
        "family": row.get("SemanticCategory", ""),
    }


def _xstest(path: Path, line: int, row: Mapping[str, str], kind: SetKind) -> dict[str, str] | None:
    # Earlier tables have no label; their unsafe rows are the contrasts.
    label = row.get("label") or ("unsafe" if row["type"].startswith("contrast_") else "safe")
    if label not in {"safe", "unsafe"}:
        raise _malformed(path, line, "label must be safe or unsafe")
    if (label == "unsafe") != (kind is SetKind.HARMFUL):
        return None
    return {
        "id": row.get("id") or row.get("id_v2") or "",
        "prompt": _text(path, line, row, "prompt"),
        "family": row["type"],
    }
