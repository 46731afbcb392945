"""What became of the findings of a daemon that was killed: announced, asked again, and ended once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

import asyncpg
import orjson

from sentinel.settings.model import DEFAULT_INSTRUCTION
from tests.support.relays import read_all

# Long enough that a kill meets requests under way.
MODEL_COMMAND = [
    sys.executable, "-m", "sentinel.embedded.scripted_model", "--obeys", DEFAULT_INSTRUCTION, "--latency", "0.1",
]  # fmt: skip

_OPEN = """
SELECT (SELECT count(*) FROM findings WHERE reprompt_state IN ('pending', 'claimed'))
     + (SELECT count(*) FROM outbox WHERE topic = $1 AND sent_at IS NULL)
"""


def findings_topic(topic: str) -> str:
    """Where the findings of the events on ``topic`` are announced."""
    return f"{topic}-findings"


def settings_of_findings(model_url: str) -> Mapping[str, object]:
    """Sections of the daemon's settings: one served model, and claims that a kill does not use up."""
    return {
        "reprompt": {"poll_interval_s": 0.1, "timeout_s": 5.0, "lease_s": 8.0, "max_claims": 1000},
        "served_models": {
            "crash": {
                "public_name": "model-a",
                "base": "base/weights",
                "event_models": ["model-*"],
                "replicas": [model_url],
            }
        },
    }


async def unfinished(conn: asyncpg.Connection[asyncpg.Record], topic: str) -> int:
    """Findings that are still to be asked again, and announcements still to be sent."""
    return int(await conn.fetchval(_OPEN, findings_topic(topic)))


async def account_findings(
    conn: asyncpg.Connection[asyncpg.Record], bootstrap: str, topic: str, unsafe: int
) -> list[str]:
    """What is wrong, in words: each of the ``unsafe`` findings must have one pair and be announced."""
    rows = await conn.fetch("SELECT reprompt_state, count(*) AS n FROM findings GROUP BY 1")
    states = {row["reprompt_state"]: row["n"] for row in rows}
    pairs = Counter(row["finding_id"] for row in await conn.fetch("SELECT finding_id FROM preference_pairs"))
    stored = {str(row["finding_id"]) for row in await conn.fetch("SELECT finding_id FROM findings")}
    announced = {
        orjson.loads(record.value or b"")["finding_id"]
        for record in await read_all(bootstrap, findings_topic(topic))
        if dict(record.headers).get("sentinel-kind") == b"finding"
    }
    problems = []
    if states != {"safe": unsafe}:
        problems.append(f"findings by the end of their re-prompt: {states}, not {unsafe} safe")
    if len(pairs) != unsafe or set(pairs.values()) != {1}:
        doubled = sum(n > 1 for n in pairs.values())
        problems.append(f"{len(pairs)} findings have pairs, {doubled} of them several; not {unsafe} and none")
    if announced != stored:
        problems.append(
            f"{len(stored - announced)} findings were never announced, {len(announced - stored)} are unknown"
        )
    return problems


__all__ = ["MODEL_COMMAND", "account_findings", "findings_topic", "settings_of_findings", "unfinished"]
