"""Connections to the test's database, and rows that the triggers look at."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from sentinel.store.engine import libpq_url
from sentinel.store.partitions import ensure_partitions


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection to the test's migrated database."""
    connection = await asyncpg.connect(libpq_url(database_url))
    yield connection
    await connection.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A second connection to the same database."""
    connection = await asyncpg.connect(libpq_url(database_url))
    yield connection
    await connection.close()


async def add_pairs(
    conn: asyncpg.Connection[Any],
    number: int,
    *,
    at: dt.datetime,
    served_model: str = "main",
    tenant: str | None = None,
    source: str | None = "app",
) -> list[UUID]:
    """Preference pairs of findings, all seen at one moment."""
    made = []
    for _ in range(number):
        finding_id, event_id, pair_id = uuid4(), uuid4(), uuid4()
        await conn.execute(
            "INSERT INTO findings (finding_id, event_id, day, created_at, policy_version, label, categories,"
            " guard_id, source, tenant, served_model, reprompt_state)"
            " VALUES ($1, $2, $3, $4, '1', 'unsafe', '{}', '0', $5, $6, $7, 'safe')",
            finding_id, event_id, at.date(), at, source, tenant, served_model,
        )  # fmt: skip
        await conn.execute(
            "INSERT INTO preference_pairs (pair_id, finding_id, event_id, attempt, served_model, prompt, chosen,"
            " rejected, chosen_generator, rejected_generator, guard_id, policy_version, created_at)"
            " VALUES ($1, $2, $3, 1, $4, '[]', 'good', 'bad', 'base', 'base', '0', '1', $5)",
            pair_id, finding_id, event_id, served_model, at,
        )  # fmt: skip
        made.append(pair_id)
    return made


async def add_interactions(
    conn: asyncpg.Connection[Any],
    number: int,
    *,
    at: dt.datetime,
    unsafe: bool = False,
    label: str | None = None,
    refusal: bool = False,
    served_model: str = "main",
    tenant: str | None = None,
    source: str | None = "app",
) -> None:
    """Scored interactions, all recorded at one moment."""
    await ensure_partitions(conn, at.date(), 1)
    await conn.executemany(
        "INSERT INTO interactions (day, event_id, received_at, recorded_at, format, source, tenant, served_model,"
        " outcome, response_label, refusal, unsafe, policy_version)"
        " VALUES ($1, $2, $3, $3, 'native', $4, $5, $6, 'stored', $7, $8, $9, '1')",
        [
            (at.date(), uuid4(), at, source, tenant, served_model, label or ("unsafe" if unsafe else "safe"),
             refusal, unsafe)
            for _ in range(number)
        ],
    )  # fmt: skip


async def add_dataset(conn: asyncpg.Connection[Any], run_id: UUID, pairs: list[UUID]) -> UUID:
    """A data set of these pairs, noted as the run's."""
    dataset_id = uuid4()
    await conn.execute(
        "INSERT INTO datasets (dataset_id, served_model, content_sha256, rows, manifest)"
        " SELECT $1, served_model, 'x', $3, '{}' FROM training_runs WHERE run_id = $2",
        dataset_id, run_id, len(pairs),
    )  # fmt: skip
    await conn.executemany(
        "INSERT INTO dataset_pairs (dataset_id, pair_id) VALUES ($1, $2)",
        [(dataset_id, one) for one in pairs],
    )
    await conn.execute("UPDATE training_runs SET dataset_id = $2 WHERE run_id = $1", run_id, dataset_id)
    return dataset_id
