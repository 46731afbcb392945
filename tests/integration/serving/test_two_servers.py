"""Two embedded servers kept at the desired state, which is read from the tables."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from sentinel.clock import ManualClock
from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.embedded.ports import ReservedPort
from sentinel.serving import Replica, ReplicaState, Serving, announceable
from sentinel.serving_desired import DesiredState, Probe, WantedAdapter, desired_state
from tests.integration.serving.client import Client
from tests.integration.serving.conftest import BASE
from tests.integration.serving.reference import QUESTIONS, Reference
from tests.support.tiny_llama import TinyLlama
from tests.support.vllm_server import VllmServer

SHA = "0" * 64


def probes(reference: Reference, kind: str) -> tuple[Probe, ...]:
    return tuple(
        Probe(question, tuple(reference.words(kind, question)[:16]), differs=True) for question in QUESTIONS
    )


async def test_restarted_swapped_and_dead_servers(tiny_llama: TinyLlama, reference: Reference) -> None:
    alpha = WantedAdapter("alpha", tiny_llama.alpha, probes(reference, "alpha"))
    beta = WantedAdapter("beta", tiny_llama.beta, probes(reference, "beta"))
    desired = DesiredState(served_model="chat", adapters=(alpha, beta))
    clock = ManualClock()
    # Nobody else may have the first one's port while it is away.
    port = ReservedPort()
    one = ThreadedModelServer(tiny_llama.model, name=BASE, port=port.number)
    other = ThreadedModelServer(tiny_llama.model, name=BASE)
    with port, one, other:
        serving = Serving("chat", [Replica(one.url), Replica(other.url)], clock=clock)
        reports = await serving.reconcile(desired)
        assert [report.state for report in reports] == [ReplicaState.OK, ReplicaState.OK], reports
        assert announceable(reports, "alpha")

        # Somebody put other weights under the promoted name.
        async with Client(one.url) as client:
            await client.unload("alpha")
            await client.load("alpha", tiny_llama.beta)
            clock.advance(61)
            (report, _) = await serving.reconcile(desired)
            assert report.state is ReplicaState.OK
            assert await client.text("alpha", "abc") == reference.text("alpha", "abc")

        # Here they lie at the path itself, so that loading them again does not help.
        crooked = DesiredState(
            served_model="chat", adapters=(WantedAdapter("crooked", tiny_llama.beta, alpha.probes),)
        )
        reports = await serving.reconcile(crooked)
        assert {report.state for report in reports} == {ReplicaState.WRONG}
        assert not announceable(reports, "crooked")

        # Too high a rank: refused with the reason, on every look.
        wide = DesiredState(
            served_model="chat", adapters=(WantedAdapter("wide", tiny_llama.wide, alpha.probes),)
        )
        (report, _) = await serving.reconcile(wide)
        assert report.state is ReplicaState.STALE
        assert "max_lora_rank" in report.detail

        one.stop()
        reports = await serving.reconcile(desired)
        assert [report.state for report in reports] == [ReplicaState.DOWN, ReplicaState.OK]
        with ThreadedModelServer(tiny_llama.model, name=BASE, port=port.number):
            reports = await serving.reconcile(desired)
            assert [report.state for report in reports] == [ReplicaState.OK, ReplicaState.OK]
            assert reports[0].loaded == ("alpha", "beta")
            await serving.aclose()


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_a_real_vllm_is_brought_to_the_desired_state(
    vllm: VllmServer, tiny_llama: TinyLlama, reference: Reference
) -> None:
    # Not compared with the base, which on the CPU may answer with an adapter's text (see the contract).
    recorded = tuple(msgspec.structs.replace(probe, differs=False) for probe in probes(reference, "alpha"))
    right = DesiredState(served_model="chat", adapters=(WantedAdapter("kept", tiny_llama.alpha, recorded),))
    crooked = DesiredState(
        served_model="chat",
        adapters=(WantedAdapter("crooked", tiny_llama.beta, recorded),),
        retired=frozenset({"kept"}),
    )
    serving = Serving("chat", [Replica(vllm.url)], unload_grace_s=0.0)
    try:
        (report,) = await serving.reconcile(right)
        assert report.state is ReplicaState.OK, report
        assert report.loaded == ("kept",)
        (report,) = await serving.reconcile(crooked)
        assert report.state is ReplicaState.WRONG, report
        assert report.unloaded == ("kept",)
        wide = WantedAdapter("wide", tiny_llama.wide, recorded)
        (report,) = await serving.reconcile(
            DesiredState(served_model="chat", adapters=(wide,), retired=frozenset({"crooked"}))
        )
        assert report.state is ReplicaState.STALE, report
        assert "max_lora_rank" in report.detail
    finally:
        await serving.aclose()


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    yield conn
    await conn.close()


async def adapter(
    conn: asyncpg.Connection, name: str, state: str, *, minute: int, model: str = "chat"
) -> None:
    await conn.execute(
        "INSERT INTO adapters (adapter, served_model, state, path, weights_sha256, manifest, created_at) "
        "VALUES ($1, $2, $3, $4, $5, '{}', $6)",
        name, model, state, f"/adapters/{name}", SHA, dt.datetime(2026, 1, 1, 0, minute, tzinfo=dt.UTC),
    )  # fmt: skip


async def promotion(
    conn: asyncpg.Connection, generation: int, name: str | None, previous: str | None, action: str = "promote"
) -> UUID:
    made = uuid4()
    await conn.execute(
        "INSERT INTO promotions (promotion_id, served_model, generation, adapter, previous_adapter, action, actor) "
        "VALUES ($1, 'chat', $2, $3, $4, $5, 'test')",
        made, generation, name, previous, action,
    )  # fmt: skip
    return made


async def report(conn: asyncpg.Connection, name: str, body: dict[str, object], *, minute: int) -> None:
    await conn.execute(
        "INSERT INTO gate_reports (gate_report_id, served_model, adapter, verdict, bundle_sha256, report, created_at) "
        "VALUES ($1, 'chat', $2, 'pass', $3, $4, $5)",
        uuid4(), name, SHA, json.dumps(body), dt.datetime(2026, 1, 1, 1, minute, tzinfo=dt.UTC),
    )  # fmt: skip


async def test_the_desired_state_of_an_empty_store(conn: asyncpg.Connection) -> None:
    assert await desired_state(conn, "chat") == DesiredState(served_model="chat")


async def test_the_desired_state_is_read_from_adapters_and_promotions(conn: asyncpg.Connection) -> None:
    for minute, (name, state) in enumerate(
        [
            ("first", "superseded"),
            ("second", "superseded"),
            ("bad", "rolled_back"),
            ("third", "promoted"),
            ("next", "probing"),
            ("later", "candidate"),
            ("failed", "failed"),
        ]
    ):
        await adapter(conn, name, state, minute=minute)
    await adapter(conn, "stranger", "promoted", minute=9, model="another")
    await promotion(conn, 1, "first", None)
    await promotion(conn, 2, "second", "first")
    await promotion(conn, 3, "third", "second")
    await report(conn, "third", {"probes": [{"question": "old", "tokens": ["x"]}]}, minute=0)
    await report(
        conn, "third", {"probes": [{"question": "q", "tokens": ["a", "b"], "differs": False}]}, minute=1
    )
    await report(conn, "third", {"verdict": "pass"}, minute=2)
    found = await desired_state(conn, "chat")
    assert found.adapters == (
        WantedAdapter("third", Path("/adapters/third"), (Probe("q", ("a", "b"), differs=False),)),
        WantedAdapter("next", Path("/adapters/next")),
        WantedAdapter("second", Path("/adapters/second")),
    )
    assert found.retired == {"first", "bad", "failed"}


async def test_what_was_rolled_back_is_no_predecessor(conn: asyncpg.Connection) -> None:
    await adapter(conn, "first", "promoted", minute=0)
    await adapter(conn, "second", "rolled_back", minute=1)
    await promotion(conn, 1, "first", None)
    await promotion(conn, 2, "second", "first")
    await promotion(conn, 3, "first", "second", "rollback")
    found = await desired_state(conn, "chat")
    assert [wanted.name for wanted in found.adapters] == ["first"]
    assert found.retired == {"second"}
