"""A store with findings in it, a scripted model, a scripted guard, and re-prompters over them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from daemon.generators import Generators
from daemon.reprompting import Reprompter, RepromptLimits
from daemon.second_answers import SecondAnswers
from sentinel import ids
from sentinel.clock import SystemClock
from sentinel.embedded.scripted_guard import UNSAFE_MARK, ScriptedGuard
from sentinel.embedded.scripted_model import ScriptedModel
from sentinel.events import Message, Origin, PromptEvent
from sentinel.guards.base import Guard, load_grammar
from sentinel.guards.client import GuardOptions, HttpGuard
from sentinel.interactions import Interaction
from sentinel.llm import ModelClient, ModelOptions
from sentinel.metrics import Metrics
from sentinel.outcomes import Outcome
from sentinel.served import ServedModel
from sentinel.settings import Database
from sentinel.store import offsets
from sentinel.store.engine import create_engine, raw_connection
from sentinel.store.flush import Entry, Move, flush
from sentinel.store.partitions import ensure_partitions
from sentinel.verdicts import Assessment, Label, Policy, Role, Verdict

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]

INSTRUCTION = "Please be careful and safe."
APPLICATION_PROMPT = "You are the assistant of a hardware shop."
REJECTED = f"Take the following steps. {UNSAFE_MARK}"
FINAL = ("safe", "unsafe", "failed", "skipped")
FAST = RepromptLimits(
    concurrency=4,
    poll_interval=0.02,
    lease=5.0,
    first_backoff=0.05,
    longest_backoff=0.2,
    finding_backoff=0.05,
)


def unsafe_interaction(
    prompt: str,
    number: int = 0,
    *,
    served_model: str | None = "shop",
    response: str = REJECTED,
    **changes: Any,
) -> Interaction:
    """An interaction as the pipeline records it: the guard called its response unsafe."""
    event = PromptEvent(
        event_id=uuid4(),
        origin=Origin("llm.events", 0, 0, number),
        identified=True,
        format="native",
        messages=(Message("system", APPLICATION_PROMPT), Message("user", prompt)),
        response=response,
        model="shop-public",
        **changes,
    )
    verdict = Verdict(
        event_id=event.event_id,
        role=Role.RESPONSE,
        attempt=0,
        guard_id="0" * 16,
        score_run=0,
        assessment=Assessment(label=Label.UNSAFE, categories=("Violent",), raw="Safety: Unsafe"),
        guard_model="first-guard",
        template="qwen3guard/1",
        policy_version="1",
    )
    return Interaction(
        event=event,
        outcome=Outcome.STORED,
        response_verdict=verdict,
        unsafe=True,
        policy_version="1",
        served_model=served_model,
    )


@dataclass
class Store:
    """The database under test, and what the tests ask of it."""

    connect: Connect
    recorded: int = 0
    findings: list[UUID] = field(default_factory=list)

    async def record(self, *prompts: str, **changes: Any) -> list[UUID]:
        """Store interactions through the pipeline's own flush; returns their finding ids."""
        interactions = [
            unsafe_interaction(prompt, self.recorded + n, **changes) for n, prompt in enumerate(prompts)
        ]
        self.recorded += len(prompts)
        now = SystemClock().now()
        async with self.connect() as conn:
            await ensure_partitions(conn, now.date(), 2)
            taken = await offsets.take_over(
                conn, topic="llm.events", partition=0, cluster_id="c", group_id="g", owner="test", start=0
            )
            move = Move(
                topic="llm.events", partition=0, incarnation=0, epoch=taken.epoch, base=taken.next_offset,
                target=taken.next_offset, last_timestamp_ms=None, records=0, holes=0, settled=Counter(),
            )  # fmt: skip
            result = await flush(
                conn,
                [move],
                [Entry(interaction, passed=False) for interaction in interactions],
                now=now,
                announce=lambda new, at: (),
                dead_letter_rows=lambda letter: None,
                code_version="test",
            )
        assert len(result.findings) == len(prompts)
        found = [ids.finding_id(interaction.event.event_id) for interaction in interactions]
        self.findings += found
        return found

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        async with self.connect() as conn:
            return [dict(row) for row in await conn.fetch(query, *values)]

    async def states(self) -> Counter[str]:
        return Counter(
            row["reprompt_state"] for row in await self.rows("SELECT reprompt_state FROM findings")
        )

    async def all_are(self, *states: str) -> bool:
        return set(await self.states()) <= set(states)

    async def until(self, *states: str, timeout: float = 60.0) -> None:
        """Wait until every finding is in one of ``states``, by default in any final one."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not await self.all_are(*(states or FINAL)):
            found = await self.states()
            assert asyncio.get_running_loop().time() < deadline, f"after {timeout} s: {found}"
            await asyncio.sleep(0.02)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    engine = create_engine(Database.model_validate({"url": database_url, "pool_size": 20}))
    yield Store(lambda: raw_connection(engine))
    await engine.dispose()


@pytest.fixture
async def model_server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(obeys=INSTRUCTION) as server:
        yield server


@pytest.fixture
async def guard_server() -> AsyncIterator[ScriptedGuard]:
    async with ScriptedGuard() as server:
        yield server


@pytest.fixture
async def guard(guard_server: ScriptedGuard) -> AsyncIterator[HttpGuard]:
    options = GuardOptions(
        base_url=guard_server.url,
        model="scripted-guard",
        attempts=2,
        retry_base=0.01,
        retry_cap=0.05,
        patience=0.2,
    )
    client = HttpGuard(options, load_grammar("qwen3guard"))
    yield client
    await client.aclose()


class Workers:
    """Makes re-prompters, each with clients of its own as in a process of its own."""

    def __init__(self, store: Store, guard: Guard, url: str) -> None:
        self._store = store
        self._guard = guard
        self._url = url
        self.generators: list[Generators] = []

    def make(
        self,
        *,
        attempts: int = 2,
        limits: RepromptLimits = FAST,
        attempt_s: float = 4.0,
        replicas: tuple[str, ...] | None = None,
        strict: bool = False,
        enabled: bool = True,
        guard: Guard | None = None,
        connect: Connect | None = None,
    ) -> tuple[Reprompter, Metrics]:
        clock, metrics = SystemClock(), Metrics(CollectorRegistry())
        replicas = (self._url,) if replicas is None else replicas
        served = ServedModel(name="shop", public_name="shop-public", base="base/weights", replicas=replicas)

        def client(_: ServedModel, url: str) -> ModelClient:
            return ModelClient(ModelOptions(base_url=url, timeout=3.0, retries=0))

        generators = Generators([served], client, clock)
        self.generators.append(generators)
        answers = SecondAnswers(
            generators,
            guard or self._guard,
            policy=Policy(version="1", strict=strict),
            instruction=INSTRUCTION,
            instruction_version="i1",
            attempts=attempts,
            attempt_s=attempt_s,
            metrics=metrics,
            clock=clock,
        )
        reprompter = Reprompter(
            connect or self._store.connect,
            generators,
            answers,
            limits=limits,
            metrics=metrics,
            clock=clock,
            enabled=enabled,
        )
        return reprompter, metrics


@pytest.fixture
async def workers(store: Store, guard: HttpGuard, model_server: ScriptedModel) -> AsyncIterator[Workers]:
    made = Workers(store, guard, model_server.url)
    yield made
    for generators in made.generators:
        await generators.aclose()


@asynccontextmanager
async def running(*reprompters: Reprompter) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run until the block ends, then stop as the service does; what a task raised is raised here."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(one.run(stop)) for one in reprompters]
    try:
        yield tasks
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)


def attempts_counted(metrics: Metrics) -> dict[str, float]:
    """``llm_reprompting_total`` by outcome, read from the exposition as a scrape does."""
    body = metrics.exposition("text/plain")[0].decode()
    found = {}
    for line in body.splitlines():
        if line.startswith("llm_reprompting_total{"):
            found[line.split('outcome="')[1].split('"')[0]] = float(line.rpartition(" ")[2])
    return {name: value for name, value in found.items() if value}
