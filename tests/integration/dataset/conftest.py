"""A store with findings, pairs and benign traffic of the tiny language, and a base model that answers by its rules."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from sentinel import ids
from sentinel.events import Message
from sentinel.settings import Settings
from sentinel.store.engine import libpq_url
from sentinel.store.partitions import ensure_partitions
from sentinel.tiny.prompts import Kind, Request, draw
from sentinel.verdicts import Label
from tests.support.fake_hub import FakeHub, fake_hub

DAY = dt.date(2026, 3, 1)
AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
GUARD = "0011223344556677"


def requests(kind: Kind, count: int, seed: int = 1) -> list[Request]:
    """Distinct requests of a kind."""
    rng = random.Random(f"{kind}-{seed}")
    found: dict[str, Request] = {}
    while len(found) < count:
        request = draw(rng, kind)
        found.setdefault(request.text, request)
    return list(found.values())


@dataclass
class Traffic:
    """What the tests write, with plain SQL."""

    conn: asyncpg.Connection[Any]
    pairs: list[UUID] = field(default_factory=list)
    events: list[UUID] = field(default_factory=list)
    written: int = 0

    async def event(
        self, prompt: str, response: str, label: str, *, system: str | None = None, **columns: Any
    ) -> UUID:
        event_id = columns.pop("event_id", None) or uuid4()
        self.written += 1
        messages = [{"role": "system", "text": system}] if system else []
        messages.append({"role": "user", "text": prompt})
        values = {
            "day": DAY, "event_id": event_id, "received_at": AT + dt.timedelta(seconds=self.written),
            "format": "native", "source": "shop", "model": "tiny", "served_model": "main", "outcome": "stored",
            "prompt_label": "safe", "response_label": label, "refusal": False, "unsafe": label == "unsafe",
            "policy_version": "1", **columns,
        }  # fmt: skip
        await self.conn.execute(
            f"INSERT INTO interactions ({', '.join(values)})"
            f" VALUES ({', '.join(f'${n + 1}' for n in range(len(values)))})",
            *values.values(),
        )
        await self.conn.execute(
            "INSERT INTO interaction_texts (day, event_id, messages, response) VALUES ($1, $2, $3, $4)",
            DAY, event_id, json.dumps(messages), response,
        )  # fmt: skip
        await self.verdict(event_id, label)
        self.events.append(event_id)
        return event_id

    async def verdict(
        self, event_id: UUID, label: str, *, attempt: int = 0, score_run: int = 0, guard: str = GUARD
    ) -> None:
        await self.conn.execute(
            "INSERT INTO verdicts (day, event_id, role, attempt, guard_id, score_run, label, categories, raw,"
            " guard_model, template, policy_version)"
            " VALUES ($1, $2, 'response', $3, $4, $5, $6, '{}', '', 'guard-a', 't', '1')",
            DAY, event_id, attempt, guard, score_run, label,
        )  # fmt: skip

    async def pair(
        self, prompt: str, chosen: str, rejected: str, *, category: str = "Violent", generator: str = "tiny",
        served_by: str | None = None, tenant: str | None = None, **columns: Any,
    ) -> UUID:  # fmt: skip
        """An unsafe interaction with its finding, its re-prompt's verdict and the pair."""
        system = columns.pop("system", None)
        event_id = await self.event(
            prompt, rejected, "unsafe", system=system, served_by=served_by, tenant=tenant, **columns
        )
        finding = ids.finding_id(event_id)
        await self.conn.execute(
            "INSERT INTO findings (finding_id, event_id, day, policy_version, label, categories, guard_id, tenant,"
            " source, served_model, served_by) VALUES ($1, $2, $3, '1', 'unsafe', $4, $5, $6, $7, 'main', $8)",
            finding, event_id, DAY, [category], GUARD, tenant, columns.get("source", "shop"), served_by,
        )  # fmt: skip
        await self.verdict(event_id, "safe", attempt=1)
        pair_id = ids.pair_id(finding, 1)
        messages = [{"role": "system", "text": system}] if system else []
        await self.conn.execute(
            "INSERT INTO preference_pairs (pair_id, finding_id, event_id, attempt, served_model, prompt, chosen,"
            " rejected, chosen_generator, rejected_generator, guard_id, policy_version, created_at)"
            " VALUES ($1, $2, $3, 1, 'main', $4, $5, $6, 'tiny', $7, $8, '1', $9)",
            pair_id, finding, event_id, json.dumps([*messages, {"role": "user", "text": prompt}]), chosen, rejected,
            generator, GUARD, AT + dt.timedelta(seconds=self.written),
        )  # fmt: skip
        self.pairs.append(pair_id)
        return pair_id

    async def harmful(self, count: int, seed: int = 1, **columns: Any) -> list[Request]:
        found = requests(Kind.HARMFUL, count, seed)
        for request in found:
            await self.pair(request.text, request.refusal, request.answer, category=request.family, **columns)
        return found

    async def benign(self, kind: Kind, count: int, seed: int = 1, **columns: Any) -> list[Request]:
        found = requests(kind, count, seed)
        for request in found:
            await self.event(request.text, request.answer, "safe", **columns)
        return found

    async def adapter(self, name: str) -> None:
        await self.conn.execute(
            "INSERT INTO adapters (adapter, served_model, path, weights_sha256, manifest)"
            " VALUES ($1, 'main', '/nowhere', $2, '{}')",
            name,
            "a" * 64,
        )


@pytest.fixture
async def traffic(database_url: str) -> AsyncIterator[Traffic]:
    conn = await asyncpg.connect(libpq_url(database_url))
    await ensure_partitions(conn, DAY, 1)
    yield Traffic(conn)
    await conn.close()


@dataclass
class Base:
    """Answers any request it was taught by the tiny language's rules; under an instruction it refuses."""

    known: dict[str, Request] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    obeys: bool = True

    def teach(self, found: Sequence[Request]) -> None:
        self.known |= {request.text: request for request in found}

    async def ask(self, conversations: Sequence[Sequence[Message]], system: str | None) -> list[str]:
        answers = []
        for messages in conversations:
            request = self.known[messages[-1].text]
            self.asked.append((request.text, system))
            answers.append(request.refusal if system and self.obeys else request.answer)
        return answers

    async def judge(self, messages: Sequence[Message], answer: str) -> Label:
        request = self.known[messages[-1].text]
        return Label.UNSAFE if request.harmful and answer == request.answer else Label.SAFE


@pytest.fixture
def base() -> Base:
    return Base()


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(
        {
            "served_models": {"main": {"public_name": "assistant", "base": "tiny"}},
            "dataset": {"min_pairs": 10, "max_client_share": 1.0},
            "evaluation": {"reserved_share": 0.05},
        }
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    # A token of the machine's user must never be used.
    monkeypatch.setenv("HF_TOKEN", "hf_somebodyelse")
    with fake_hub() as server:
        yield server
