"""Real weights on two embedded servers: promoted, replaced and put back, with the answers that were measured."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec

from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.manifests import AdapterManifest
from sentinel.serving_desired import Probe
from sentinel.settings import Settings
from sentinel.store.adapters import insert_adapter
from sentinel.store.engine import libpq_url
from tests.integration.serving.client import Client
from tests.integration.serving.conftest import BASE
from tests.integration.serving.reference import QUESTIONS, Reference
from tests.support.tiny_llama import TinyLlama
from trainer.connections import connections
from trainer.finetune.naming import adapter_name, adapter_sha256
from trainer.promote import promote
from trainer.rollback import rollback

MODEL = "chat"


async def passed(database_url: str, folder: Path, probes: list[Probe], incumbent: str | None) -> str:
    """An adapter as training leaves it, with the gate's report; its name."""
    sha256 = adapter_sha256(folder)
    name = adapter_name(MODEL, sha256)
    manifest = AdapterManifest(
        created_at=dt.datetime.now(dt.UTC),
        code_version="0",
        adapter=name,
        served_model=MODEL,
        base=BASE,
        base_sha256="0" * 64,
        weights_sha256=sha256,
        dataset_id=uuid4(),
        run_id=uuid4(),
        rank=8,
        target_modules=("q_proj",),
    )
    conn = await asyncpg.connect(libpq_url(database_url))
    try:
        await conn.execute(
            "INSERT INTO training_runs (run_id, served_model, kind, state)"
            " VALUES ($1, $2, 'train', 'succeeded')",
            manifest.run_id,
            MODEL,
        )
        assert await insert_adapter(conn, manifest, folder)
        await conn.execute(
            "INSERT INTO gate_reports (gate_report_id, served_model, adapter, incumbent, verdict, bundle_sha256,"
            " report) VALUES ($1, $2, $3, $4, 'pass', 'none', $5::text::jsonb)",
            uuid4(),
            MODEL,
            name,
            incumbent,
            msgspec.json.encode({"probes": probes}).decode(),
        )
    finally:
        await conn.close()
    return name


async def test_promoted_replaced_and_put_back(
    tiny_llama: TinyLlama, reference: Reference, database_url: str, tmp_path: Path
) -> None:
    def probes(kind: str) -> list[Probe]:
        return [Probe(q, tuple(reference.words(kind, q)[:16]), differs=True) for q in QUESTIONS]

    one = ThreadedModelServer(tiny_llama.model, name=BASE)
    other = ThreadedModelServer(tiny_llama.model, name=BASE)
    with one, other:
        settings = Settings.model_validate(
            {
                "database": {"url": database_url},
                "adapters": {"store": tmp_path / "store"},
                "promotion": {"mode": "auto", "probe_timeout_s": 30.0},
                "served_models": {
                    MODEL: {"public_name": "assistant", "base": BASE, "replicas": (one.url, other.url)}
                },
            }
        )
        async with connections(settings) as connect, Client(one.url) as first, Client(other.url) as second:
            alpha = await passed(database_url, tiny_llama.alpha, probes("alpha"), None)
            assert (await promote(connect, settings, MODEL, alpha, actor="test")).adapter == alpha
            beta = await passed(database_url, tiny_llama.beta, probes("beta"), alpha)
            done = await promote(connect, settings, MODEL, beta, actor="test")
            assert (done.generation, done.adapter, done.previous_adapter) == (2, beta, alpha)
            for client in (first, second):
                assert await client.models() == {BASE: None, alpha: BASE, beta: BASE}
                assert await client.text(alpha, "abc") == reference.text("alpha", "abc")
                assert await client.text(beta, "abc") == reference.text("beta", "abc")
            change = await rollback(connect, settings, MODEL, actor="test", reason="worse")
            assert change is not None
            assert change.adapter == alpha
