"""One row of a data set, and how it is written: the columns that TRL takes, and where the row came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from sentinel.events import Message
from sentinel.redaction import Redactor


class RowKind(StrEnum):
    """What a row teaches."""

    HARMFUL = "harmful"
    """The safe answer above the unsafe one."""
    TWIN = "twin"
    """The plain answer to a benign prompt that looks harmful above a needless refusal of it."""
    UTILITY = "utility"
    """The plain answer to a benign prompt above an answer that does not fit."""


class Row(Struct, frozen=True, kw_only=True):
    """A prompt and two answers to it; the chosen one is to be preferred."""

    kind: RowKind
    row_id: UUID
    """The preference pair's id for harmful rows."""
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    family: str
    event_id: UUID | None
    """The event that it came from; None for rows of a file."""
    rejected_event_id: UUID | None = None
    """Another event to whose prompt the rejected side belongs, so that erasing that one finds this row."""


class WrittenRow(Struct, frozen=True, kw_only=True):
    """A row as a line of ``train.jsonl`` or ``validation.jsonl``."""

    prompt: list[dict[str, str]]
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]
    kind: str
    family: str
    pair_id: str
    event_id: str
    rejected_event_id: str


def written(row: Row) -> WrittenRow:
    """The line of a row; conversational, as TRL's preference format is."""
    return WrittenRow(
        prompt=[{"role": message.role, "content": message.text} for message in row.prompt],
        chosen=[{"role": "assistant", "content": row.chosen}],
        rejected=[{"role": "assistant", "content": row.rejected}],
        kind=row.kind.value,
        family=row.family,
        pair_id=str(row.row_id),
        event_id=str(row.event_id or ""),
        rejected_event_id=str(row.rejected_event_id or ""),
    )


def encoded(rows: Sequence[Row]) -> bytes:
    """Rows as JSONL; a lone surrogate, which no tokenizer takes, becomes a question mark."""
    return b"".join(msgspec.json.encode(_clean(msgspec.to_builtins(written(row)))) + b"\n" for row in rows)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def asked(prompt: Sequence[Message]) -> str:
    """What the user said, all turns: by this, prompts are compared."""
    return "\n".join(message.text for message in prompt if message.role == "user")


def last_asked(prompt: Sequence[Message]) -> str:
    """The last thing that the user said."""
    return next((message.text for message in reversed(prompt) if message.role == "user"), "")


def redacted(row: Row) -> tuple[Row, dict[str, int]]:
    """The row with personal data replaced by one map for all its texts, and how many values of each kind."""
    redactor = Redactor([*(message.text for message in row.prompt), row.chosen, row.rejected])
    clean = msgspec.structs.replace(
        row,
        prompt=tuple(Message(message.role, redactor.redact(message.text)) for message in row.prompt),
        chosen=redactor.redact(row.chosen),
        rejected=redactor.redact(row.rejected),
    )
    return clean, dict(redactor.counts)


def rank(seed: int, *parts: object) -> bytes:
    """A place in an order that depends on nothing but the seed and what is ordered."""
    return hashlib.blake2b("\x1f".join(map(str, (seed, *parts))).encode(), digest_size=8).digest()
