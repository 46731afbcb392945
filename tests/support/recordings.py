"""Items as the recorder gets them, and a partition that is written to without a daemon."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel import ids
from sentinel.announcements import FindingOutput, announce_dead_letter, announce_interaction
from sentinel.events import Ignored, Message, Origin, PromptEvent
from sentinel.interactions import DeadLetter, Interaction, Recordable, Replay, origin_of
from sentinel.outcomes import Outcome
from sentinel.store import offsets
from sentinel.store.engine import raw_connection
from sentinel.store.flush import Entry, Flushed, Move, OutcomeKey, flush
from sentinel.verdicts import Assessment, Label, Role, Verdict

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
TOPIC = "llm.events"
OUTPUT = FindingOutput(topic="sentinel.findings")


def event(
    offset: int,
    name: str | None = None,
    *,
    item: int = 0,
    text: str = "How do I boil an egg?",
    response: str = "In hot water.",
    topic: str = TOPIC,
    partition: int = 0,
    tenant: str | None = None,
    **fields: Any,
) -> PromptEvent:
    """An event at an offset; ``name`` is its response id, without one it is unidentified."""
    origin = Origin(topic, 0, partition, offset, item)
    event_id = (
        ids.event_id_from_response(tenant, name, 0)
        if name is not None
        else ids.event_id_from_log("cluster", topic, 0, partition, offset, item)
    )
    values: dict[str, Any] = {
        "event_id": event_id,
        "origin": origin,
        "identified": name is not None,
        "format": "native",
        "messages": (Message("user", text),),
        "response": response,
        "received_ms": 1_772_000_000_000,
        "model": "model-a",
        "tenant": tenant,
        "response_id": name,
    }
    return PromptEvent(**{**values, **fields})


def verdict(of: PromptEvent, role: Role, label: Label = Label.SAFE, **fields: Any) -> Verdict:
    """A guard's verdict on one side."""
    categories = ("Violent", "PII") if label is Label.UNSAFE else ()
    return Verdict(
        event_id=of.event_id,
        role=role,
        attempt=0,
        guard_id="0011223344556677",
        score_run=0,
        assessment=Assessment(label=label, categories=categories, raw="Safety: x", **fields),
        guard_model="guard-a",
        template="qwen3guard/1",
        policy_version="policy-1",
    )


def scored(of: PromptEvent, *, unsafe: bool = False, replay: Replay | None = None) -> Interaction:
    """A stored interaction with both verdicts."""
    return Interaction(
        event=of,
        outcome=Outcome.STORED,
        prompt_verdict=verdict(of, Role.PROMPT),
        response_verdict=verdict(of, Role.RESPONSE, Label.UNSAFE if unsafe else Label.SAFE),
        unsafe=unsafe,
        policy_version="policy-1",
        served_model="main",
        replay=replay,
    )


def unscored(of: PromptEvent, reason: str = "guard_error") -> Interaction:
    """An interaction without a verdict."""
    return Interaction(event=of, outcome=Outcome.UNSCORED, reason=reason, policy_version="policy-1")


def ignored(offset: int, *, item: int = 0, reason: str = "no_content") -> Ignored:
    return Ignored(Origin(TOPIC, 0, 0, offset, item), reason)


def letter(offset: int, *, item: int = 0, **fields: Any) -> DeadLetter:
    """A record that could not be read."""
    values: dict[str, Any] = {
        "origin": Origin(TOPIC, 0, 0, offset, item),
        "reason": "invalid_json",
        "detail": "line 1",
        "error_class": "PoisonError",
        "key": b"k",
        "value": b"{broken",
        "headers": (("h", b"1"),),
        "timestamp_ms": 5,
    }
    return DeadLetter(**{**values, **fields})


class Ledger:
    """One partition and its owner; `write` is one flush."""

    def __init__(self, engine: AsyncEngine, *, topic: str = TOPIC, partition: int = 0) -> None:
        self._engine = engine
        self.topic, self.partition = topic, partition
        self.epoch = 0
        self.next_offset = 0

    def connect(self) -> AbstractAsyncContextManager[asyncpg.Connection[Any]]:
        return raw_connection(self._engine)

    async def take(self) -> Ledger:
        """Become the owner (again)."""
        async with self.connect() as conn:
            taken = await offsets.take_over(
                conn,
                topic=self.topic,
                partition=self.partition,
                cluster_id="cluster",
                group_id="g",
                owner="test",
                start=0,
            )
        self.epoch, self.next_offset = taken.epoch, taken.next_offset
        return self

    def move(
        self,
        to: int,
        *,
        records: int | None = None,
        settled: Iterable[OutcomeKey] = (),
        base: int | None = None,
    ) -> Move:
        base = self.next_offset if base is None else base
        records = to - base if records is None else records
        return Move(
            topic=self.topic,
            partition=self.partition,
            incarnation=0,
            epoch=self.epoch,
            base=base,
            target=to,
            last_timestamp_ms=to,
            records=records,
            holes=to - base - records,
            settled=Counter(settled),
        )

    async def write(
        self,
        items: Sequence[Recordable],
        *,
        to: int | None = None,
        move: Move | None = None,
        now: dt.datetime = NOW,
    ) -> Flushed:
        """Flush items and move to ``to`` (stay where it is None)."""
        move = move or self.move(self.next_offset if to is None else to)
        async with self.connect() as conn:
            result = await flush(
                conn,
                [move],
                [Entry(item, origin_of(item).offset < move.target) for item in items],
                now=now,
                announce=lambda new, at: announce_interaction(new, at, OUTPUT),
                dead_letter_rows=lambda dead: announce_dead_letter(dead, NOW, code_version="1"),
                code_version="1",
            )
        self.next_offset = move.target
        return result

    async def fetch(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        async with self.connect() as conn:
            return await conn.fetch(statement, *values)

    async def value(self, statement: str, *values: Any) -> Any:
        async with self.connect() as conn:
            return await conn.fetchval(statement, *values)

    async def sums(self) -> dict[str, int]:
        async with self.connect() as conn:
            return await offsets.sums_of(conn, self.topic)
