from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from sentinel.errors import CommandError
from sentinel.serving_desired import desired_state
from sentinel.store.engine import libpq_url
from tests.support.evidence import BASE, GOOD, attempt, evidence, on_prompts, sha
from trainer.evidence import Evidence
from trainer.gate.decision import decide
from trainer.gate.policy import load_policy
from trainer.gate.report import GateReport
from trainer.gate.storing import store_report

_ADAPTER = """
INSERT INTO adapters (adapter, served_model, state, path, weights_sha256, manifest)
VALUES ('chat-candidate', 'chat', 'candidate', '/nowhere', $1, '{}')
"""


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    found = await asyncpg.connect(libpq_url(database_url))
    await found.execute(_ADAPTER, sha("candidate"))
    yield found
    await found.close()


def decided(found: Evidence) -> GateReport:
    return decide(found, load_policy("default"), attempt(found))


async def state(conn: asyncpg.Connection) -> str:
    return str(await conn.fetchval("SELECT state FROM adapters WHERE adapter = 'chat-candidate'"))


async def test_a_pass_leaves_a_candidate_with_its_probes(conn: asyncpg.Connection) -> None:
    found = evidence(GOOD)
    report = decided(found)
    stored = await store_report(conn, found, report, sha("bundle"))
    assert stored == await store_report(conn, found, report, sha("bundle"))
    row = await conn.fetchrow("SELECT *, report::text AS text FROM gate_reports")
    assert row is not None
    assert (row["gate_report_id"], row["verdict"], row["incumbent"]) == (stored, "pass", None)
    assert row["bundle_sha256"] == sha("bundle")
    # What is stored is the report itself.
    assert msgspec.json.decode(row["text"], type=GateReport) == report
    assert await state(conn) == "candidate"
    assert await conn.fetchval("SELECT count(*) FROM gate_reports") == 1
    # Who serves reads the probes from it.
    await conn.execute("UPDATE adapters SET state = 'loading'")
    (wanted,) = (await desired_state(conn, "chat")).adapters
    assert wanted.probes == found.probes


@pytest.mark.parametrize(
    ("found", "after"),
    [
        (evidence(BASE), "rejected"),
        (evidence(on_prompts(harmful=0.97, useful=0.9)), "rejected"),
        (evidence(harmful=20), "inconclusive"),
        (evidence(same_judge=True), "inconclusive"),
    ],
    ids=["copy", "duller", "too few", "same judge"],
)
async def test_a_no_ends_the_candidate(conn: asyncpg.Connection, found: Evidence, after: str) -> None:
    report = decided(found)
    await store_report(conn, found, report, sha("bundle"))
    await store_report(conn, found, report, sha("bundle"))
    assert await state(conn) == after
    moves = await conn.fetch("SELECT new_state FROM adapter_moves ORDER BY id")
    assert [row["new_state"] for row in moves] == ["candidate", after]


async def test_a_report_about_another_adapter_is_refused(conn: asyncpg.Connection) -> None:
    found = evidence()
    other = msgspec.structs.replace(found, candidate_sha256=sha("other weights"))
    with pytest.raises(CommandError, match="the report is about something else"):
        await store_report(conn, other, decided(other), sha("bundle"))
    with pytest.raises(CommandError, match="different candidates"):
        await store_report(conn, other, decided(found), sha("bundle"))
    assert await conn.fetchval("SELECT count(*) FROM gate_reports") == 0
