"""The gate's answer in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import msgspec
import orjson

from sentinel.errors import CommandError
from sentinel.ids import NAMESPACE
from sentinel.states import AdapterState
from trainer.evidence import Evidence
from trainer.gate.report import GateReport, Verdict

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_INSERT = """
INSERT INTO gate_reports (gate_report_id, served_model, adapter, incumbent, verdict, bundle_sha256, report)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb) ON CONFLICT (gate_report_id) DO NOTHING
"""
_MOVE = "UPDATE adapters SET state = $2 WHERE adapter = $1 AND state = 'candidate'"

_AFTER_NO = {Verdict.FAIL: AdapterState.REJECTED, Verdict.INCONCLUSIVE: AdapterState.INCONCLUSIVE}


def gate_report_id(bundle_sha256: str) -> UUID:
    """Identity of a report: its bundle's, so that a resumed run stores it once."""
    return uuid5(NAMESPACE, f"gate\x1f{bundle_sha256}")


async def store_report(conn: Connection, evidence: Evidence, report: GateReport, bundle_sha256: str) -> UUID:
    """Store the report and, after a no, take the adapter out of the running: candidate -> rejected or inconclusive.

    A pass leaves the adapter a candidate: promotion is another step. Idempotent; one transaction, or part of the
    caller's. The stored JSON is the report with ``probes``, by which replicas prove later what they serve.

    Raises:
        CommandError: report and evidence are about different candidates, or the adapter is unknown; asyncpg's errors.
    """
    if (report.candidate, report.candidate_sha256, report.run_id) != (
        evidence.candidate,
        evidence.candidate_sha256,
        evidence.run_id,
    ):
        raise CommandError("report and evidence are about different candidates")
    stored = {
        **msgspec.to_builtins(report),
        "probes": msgspec.to_builtins(evidence.probes),
    }
    found = gate_report_id(bundle_sha256)
    async with conn.transaction():
        known = await conn.fetchval(
            "SELECT weights_sha256 FROM adapters WHERE adapter = $1 AND served_model = $2 FOR UPDATE",
            report.candidate,
            report.served_model,
        )
        if known != report.candidate_sha256:
            raise CommandError(
                f"{report.served_model} has no adapter {report.candidate} with weights"
                f" {report.candidate_sha256[:12]}: the report is about something else"
            )
        await conn.execute(
            _INSERT,
            found,
            report.served_model,
            report.candidate,
            report.incumbent,
            report.verdict.value,
            bundle_sha256,
            orjson.dumps(stored).decode(),
        )
        if (state := _AFTER_NO.get(report.verdict)) is not None:
            await conn.execute(_MOVE, report.candidate, state.value)
    return found
