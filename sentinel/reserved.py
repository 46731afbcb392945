"""Conversations that are kept for evaluation: never paired, chosen by hash, the same for ever."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from sentinel.events import Message

RESERVED_SHARE: Final = 0.05
"""Share of conversations, where nothing else is set (`evaluation.reserved_share`)."""

_BLANKS: Final = re.compile(r"\s+")


def conversation_key(conversation_id: str | None, messages: Sequence[Message]) -> str:
    """What stands for a conversation: its id, else its first user text, without regard to case and white space.

    By the text all askers of one question fall on one side, whichever event brought it.
    """
    if conversation_id:
        return f"id\x1f{conversation_id}"
    first = next((message.text for message in messages if message.role == "user"), "")
    return f"text\x1f{_BLANKS.sub(' ', first).strip().casefold()}"


def is_reserved(
    conversation_id: str | None, messages: Sequence[Message], share: float = RESERVED_SHARE
) -> bool:
    """Whether a conversation belongs to evaluation. With a larger share the smaller one's stay reserved."""
    key = conversation_key(conversation_id, messages)
    digest = hashlib.sha256(b"sentinel-reserved\x1f" + key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64 < share
