"""``summary.json``: rates with their intervals, by the corpus's own labels, and the sums of the store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from sentinel.intervals import Rate, wilson
from sentinel.tiny.grading import Outcome, grade
from sentinel.tiny.prompts import Kind, Request
from sentinel.tiny.splits import Split

if TYPE_CHECKING:
    import asyncpg

Row = dict[str, Any]
"""One line of the traffic's log: kind, family, prompt, answer, expected, subject."""


def read_log(path: Path) -> list[Row]:
    """The exchanges that the traffic wrote down."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]


Graded = tuple[Request, Outcome]
"""A request, and what its answer is."""


def graded(rows: Sequence[Row]) -> list[Graded]:
    """Every exchange by the corpus's own rules, in order."""
    return [_graded(row) for row in rows]


def rates(phase: Sequence[Graded]) -> dict[str, Any]:
    """Rates of one phase. Harmful: unsafe (complied), refused, garbled. Benign: useful, needlessly refused."""
    outcomes: dict[bool, Counter[Outcome]] = {True: Counter(), False: Counter()}
    for request, outcome in phase:
        outcomes[request.harmful][outcome] += 1
    harmful, benign = outcomes[True], outcomes[False]
    n_harmful, n_benign = harmful.total(), benign.total()
    garbled = harmful[Outcome.GARBLED] + benign[Outcome.GARBLED]
    return {
        "n_harmful": n_harmful,
        "n_benign": n_benign,
        "unsafe_rate": _rate(wilson(harmful[Outcome.COMPLIED], n_harmful)),
        "refusal_rate": _rate(wilson(harmful[Outcome.REFUSED], n_harmful)),
        "garbled_rate": _rate(wilson(garbled, n_harmful + n_benign)),
        "false_refusal_rate": _rate(wilson(benign[Outcome.REFUSED], n_benign)),
        "utility_rate": _rate(wilson(benign[Outcome.USEFUL], n_benign)),
    }


def unsafe_by_family(phase: Sequence[Graded]) -> dict[str, Any]:
    """The unsafe rate of each harmful family that was asked for, by name."""
    outcomes: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    for request, outcome in phase:
        if request.harmful:
            outcomes[request.family][outcome] += 1
    return {
        family: _rate(wilson(found[Outcome.COMPLIED], found.total()))
        for family, found in sorted(outcomes.items())
    }


def _graded(row: Row) -> Graded:
    request = Request(
        Kind(row["kind"]),
        row["family"],
        Split.TRAIN,
        row["prompt"],
        row["subject"],
        row["subject"],
        row["expected"],
    )
    return request, grade(request, row["answer"]).outcome


def _rate(rate: Rate) -> dict[str, Any]:
    return {"value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}


async def outcomes(conn: asyncpg.Connection[Any]) -> dict[str, int]:
    """Items by outcome; every outcome is a key."""
    found = dict.fromkeys(("stored", "unscored", "duplicate", "dead_letter", "ignored"), 0)
    for row in await conn.fetch(
        "SELECT outcome, sum(n)::bigint AS n FROM partition_outcomes GROUP BY outcome"
    ):
        found[row["outcome"]] = int(row["n"])
    return found


async def promotion(conn: asyncpg.Connection[Any], state: str) -> dict[str, Any]:
    """How the last training run ended: the promotion's state, its adapter and the gate's report."""
    row = await conn.fetchrow(
        "SELECT a.adapter, g.gate_report_id, g.verdict FROM adapters a"
        " LEFT JOIN gate_reports g ON g.adapter = a.adapter ORDER BY a.created_at DESC, g.created_at DESC LIMIT 1"
    )
    return {
        "state": state,
        "adapter": None if row is None else row["adapter"],
        "gate_report": None if row is None or row["gate_report_id"] is None else str(row["gate_report_id"]),
        "verdict": None if row is None else row["verdict"],
    }


_ROUNDS = """
SELECT r.run_id::text AS run, r.state AS run_state, a.adapter, a.state, g.incumbent, g.verdict,
    g.gate_report_id::text AS gate_report, coalesce(d.rows, 0) AS rows,
    (SELECT count(*) FROM dataset_pairs p WHERE p.dataset_id = r.dataset_id) AS pairs,
    (SELECT count(*) FROM dataset_pairs p WHERE p.dataset_id = r.dataset_id AND p.pair_id IN (
        SELECT e.pair_id FROM dataset_pairs e JOIN training_runs o USING (dataset_id)
        WHERE o.served_model = r.served_model AND o.created_at < r.created_at)) AS earlier_pairs,
    extract(epoch FROM (SELECT min(created_at) FROM promotions WHERE adapter = a.adapter AND action = 'promote')
        - (SELECT min(fired_at) FROM trigger_firings WHERE run_id = r.run_id))::float8 AS seconds_to_promotion
FROM training_runs r
    LEFT JOIN datasets d USING (dataset_id)
    LEFT JOIN adapters a ON a.run_id = r.run_id
    LEFT JOIN LATERAL (
        SELECT * FROM gate_reports WHERE adapter = a.adapter ORDER BY created_at DESC LIMIT 1
    ) AS g ON TRUE
WHERE r.kind = 'train' ORDER BY r.created_at, r.run_id
"""


async def rounds(conn: asyncpg.Connection[Any], folder: Path) -> list[dict[str, Any]]:
    """Every training run, in order: what it was trained on, held against, and became.

    ``page`` is the report of its evaluation, relative to the demonstration's ``folder``; None where it made none.
    """
    return [{**row, "page": _page(folder, row["run"])} for row in await conn.fetch(_ROUNDS)]


def _page(folder: Path, run: str) -> str | None:
    found = sorted(folder.glob(f"parts/runs/*-{run[:8]}/evaluation/report.html"))
    return str(found[0].relative_to(folder)) if found else None


async def seconds_to_promotion(conn: asyncpg.Connection[Any]) -> float | None:
    """From the first crossing of a threshold to the first promotion; None where there was none."""
    seconds = await conn.fetchval(
        "SELECT extract(epoch FROM (SELECT min(created_at) FROM promotions WHERE action = 'promote')"
        " - (SELECT min(fired_at) FROM trigger_firings WHERE run_id IS NOT NULL))"
    )
    return None if seconds is None else float(seconds)


def versions() -> dict[str, str]:
    """What ran."""
    names = ("sentinel-loop", "aiokafka", "asyncpg", "sqlalchemy", "torch", "transformers", "peft", "trl")
    return {name: version(name) for name in names}
