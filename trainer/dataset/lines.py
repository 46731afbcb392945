"""JSONL of prompts and pairs that somebody else wrote: read line by line, a bad one is named by file and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from sentinel.errors import CommandError
from sentinel.events import Message

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def parsed_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``("file:line", object)`` for each line that is not blank.

    Raises:
        CommandError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                place = f"{path}:{number}"
                if not line.strip():
                    continue
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise CommandError(f"{place}: no JSON: {error}") from error
                if not isinstance(value, dict):
                    raise CommandError(f"{place}: a JSON object is expected, not {type(value).__name__}")
                yield place, value
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from error


def text_of(line: dict[str, Any], name: str, place: str) -> str:
    """An answer: a text, or a list that ends with one message of the assistant.

    Raises:
        CommandError: it is neither, or missing.
    """
    value = line.get(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise CommandError(f"{place}: {name} must be a text, or a list of one message with content")
    return value.replace("\x00", "\ufffd")


def messages_of(line: dict[str, Any], name: str, place: str) -> tuple[Message, ...]:
    """A prompt: the user's text, or a list of messages of which one at least is the user's.

    Raises:
        CommandError: it is neither, or missing.
    """
    value = line.get(name)
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise CommandError(f"{place}: {name} must be a text or a list of messages")
    found = []
    for message in value:
        if (
            not isinstance(message, dict)
            or message.get("role") not in _ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise CommandError(f"{place}: each message of {name} needs a role and content that is a text")
        found.append(Message(message["role"], message["content"].replace("\x00", "\ufffd")))
    if not any(message.role == "user" and message.text.strip() for message in found):
        raise CommandError(f"{place}: {name} holds no text of the user")
    return tuple(found)
