"""A served model with scripted replicas, a migrated database, and adapters that passed (or failed) the gate."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import orjson

from sentinel.jobs import JobPayload
from sentinel.manifests import AdapterManifest
from sentinel.serving_desired import Probe
from sentinel.settings import Settings
from sentinel.states import AdapterState
from sentinel.store.adapters import insert_adapter, move
from sentinel.store.engine import libpq_url
from tests.integration.serving.scripted_replica import ScriptedReplica, answer_of

MODEL = "chat"
QUESTIONS = ("one", "two")

ROWS = """
INSERT INTO interactions (day, event_id, received_at, format, model, served_model, served_by, outcome, unsafe,
    policy_version)
SELECT (now() AT TIME ZONE 'UTC')::date, gen_random_uuid(), now(), 'native', 'assistant', $1, $2, 'stored', n <= $4, '1'
FROM generate_series(1, $3::int) AS n
"""


def settings_of(
    database_url: str, store: Path, replicas: Sequence[ScriptedReplica] = (), **promotion: Any
) -> Settings:
    return Settings.model_validate(
        {
            "database": {"url": database_url, "pool_size": 3},
            "adapters": {"store": store},
            "served_models": {
                MODEL: {
                    "public_name": "assistant",
                    "base": "base",
                    "replicas": tuple(replica.url for replica in replicas),
                }
            },
            "promotion": {"mode": "auto", "probe_timeout_s": 60.0, "unload_grace_s": 0.0, **promotion},
        }
    )


def as_json(stage: Stage, replicas: Sequence[ScriptedReplica]) -> str:
    """The settings of `settings_of`, for a process of its own."""
    made: dict[str, Any] = settings_of(stage.database_url, stage.folder / "store", replicas).model_dump(
        mode="json", exclude_unset=True
    )
    made["database"]["url"] = stage.database_url  # it is hidden in a dump
    return orjson.dumps(made).decode()


class Stage:
    """The tables of one test, and files of adapters that hold nothing but their name."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.folder = folder

    async def connection(self) -> asyncpg.Connection[Any]:
        return await asyncpg.connect(libpq_url(self.database_url))

    async def fetch(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        conn = await self.connection()
        try:
            return [tuple(row) for row in await conn.fetch(statement, *values)]
        finally:
            await conn.close()

    async def adapter(
        self,
        name: str,
        *,
        verdict: str | None = "pass",
        incumbent: str | None = None,
        state: AdapterState = AdapterState.CANDIDATE,
        run_id: UUID | None = None,
    ) -> Path:
        """A trained adapter in a run's folder, with its gate report where there is a verdict."""
        source = self.folder / "run" / name
        source.mkdir(parents=True)
        (source / "adapter_config.json").write_text('{"r": 8}')
        weights = f"weights of {name}".encode()
        (source / "adapter_model.safetensors").write_bytes(weights)
        sha256 = hashlib.sha256(weights).hexdigest()
        conn = await self.connection()
        try:
            run = run_id or uuid4()
            await conn.execute(
                "INSERT INTO training_runs (run_id, served_model, kind, state) VALUES ($1, $2, 'train', 'succeeded')"
                " ON CONFLICT DO NOTHING",
                run,
                MODEL,
            )
            manifest = AdapterManifest(
                created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
                code_version="0",
                adapter=name,
                served_model=MODEL,
                base="base",
                base_sha256="0" * 64,
                weights_sha256=sha256,
                dataset_id=uuid4(),
                run_id=run,
                rank=8,
                target_modules=("q_proj",),
            )
            assert await insert_adapter(conn, manifest, source)
            if state is not AdapterState.CANDIDATE:
                await move(conn, name, AdapterState.CANDIDATE, state)
            if verdict is not None:
                await self.report(name, verdict=verdict, incumbent=incumbent)
        finally:
            await conn.close()
        return source

    async def report(self, name: str, *, verdict: str = "pass", incumbent: str | None = None) -> UUID:
        probes = [Probe(question, answer_of(name, question)) for question in QUESTIONS]
        report_id = uuid4()
        await self.fetch(
            "INSERT INTO gate_reports (gate_report_id, served_model, adapter, incumbent, verdict, bundle_sha256,"
            " report) VALUES ($1, $2, $3, $4, $5, 'none', $6::text::jsonb)",
            report_id,
            MODEL,
            name,
            incumbent,
            verdict,
            msgspec.json.encode({"probes": probes}).decode(),
        )
        return report_id

    async def states(self) -> dict[str, str]:
        return dict(await self.fetch("SELECT adapter, state FROM adapters"))

    async def history(self) -> list[tuple[int, str, str | None, str | None]]:
        """Generation, action, adapter and the one before, in order."""
        return await self.fetch(
            "SELECT generation, action, adapter, previous_adapter FROM promotions WHERE served_model = $1"
            " ORDER BY generation",
            MODEL,
        )


class Traffic:
    """Scored answers, put straight into the table."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def answer(self, served_by: str | None, n: int, unsafe: int) -> None:
        await self._stage.fetch(ROWS, MODEL, served_by, n, unsafe)


async def jobs(stage: Stage) -> list[JobPayload]:
    rows = await stage.fetch("SELECT payload FROM pgqueuer.pgqueuer")
    return [msgspec.json.decode(row[0], type=JobPayload) for row in rows]
