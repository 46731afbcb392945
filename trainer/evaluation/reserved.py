"""Prompts of reserved conversations, which no pair is ever made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from sentinel.events import Message
from sentinel.refusal import is_refusal
from sentinel.reserved import is_reserved
from trainer.evaluation.items import SetItem, item_id
from trainer.evidence import SetKind

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

# Harmful is what the guard called so in either place; benign what it called safe in both.
_INTERACTIONS: Final = """
SELECT i.conversation_id, i.unsafe, i.prompt_label, i.response_label, t.messages::text AS messages, t.response,
    (SELECT v.categories[1] FROM verdicts v WHERE v.day = i.day AND v.event_id = i.event_id
        AND v.attempt = 0 AND v.score_run = 0 AND cardinality(v.categories) > 0
        ORDER BY v.role DESC, v.guard_id LIMIT 1) AS category
FROM interactions i JOIN interaction_texts t USING (day, event_id)
WHERE i.served_model = $1 AND i.outcome = 'stored' AND i.unscanned_parts = 0
ORDER BY i.received_at, i.event_id
"""
_READ_ROWS: Final = 500


async def reserved_items(conn: Connection, served_model: str, share: float) -> dict[SetKind, list[SetItem]]:
    """Harmful and benign prompts of the served model's reserved conversations, oldest first.

    A conversation gives the messages up to its last user turn. A prompt whose two verdicts contradict each other,
    or whose safe-looking answer refuses, is left out. Raises asyncpg's errors.
    """
    found: dict[SetKind, list[SetItem]] = {SetKind.HARMFUL: [], SetKind.BENIGN: []}
    async with conn.transaction(readonly=True):
        async for row in conn.cursor(_INTERACTIONS, served_model, prefetch=_READ_ROWS):
            turns = tuple(Message(m["role"], m["text"]) for m in orjson.loads(row["messages"]))
            if not turns or turns[-1].role != "user" or not turns[-1].text.strip():
                continue
            if not is_reserved(row["conversation_id"], turns, share):
                continue
            kind = _kind(row)
            if kind is not None:
                family = (row["category"] or "") if kind is SetKind.HARMFUL else ""
                found[kind].append(SetItem(id=item_id(turns), messages=turns, family=family))
    return found


def _kind(row: Any) -> SetKind | None:
    if row["unsafe"] or row["prompt_label"] == "unsafe":
        return SetKind.HARMFUL
    if row["response_label"] == "safe" and row["prompt_label"] in {"safe", None}:
        return None if is_refusal(row["response"]) else SetKind.BENIGN
    return None
