"""What the replicas of one served model ought to have loaded, and how that is read from the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from sentinel.states import AdapterState

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]


class Probe(Struct, frozen=True):
    """A question with the answer that evaluation recorded, on the same kind of engine with the same dtype."""

    question: str
    """One user turn, asked without a system prompt."""
    tokens: tuple[str, ...]
    """The greedy answer's first 16 tokens as text (fewer where it ended)."""
    differs: bool = True
    """Whether the base answered something else."""


class WantedAdapter(Struct, frozen=True):
    """An adapter that every replica has to serve."""

    name: str
    path: Path
    """Its folder as this process sees it."""
    probes: tuple[Probe, ...] = ()
    """Without any, a replica can serve the adapter but never prove that it does."""


class DesiredState(Struct, frozen=True, kw_only=True):
    """What one served model's replicas must have, and what they need no longer."""

    served_model: str
    adapters: tuple[WantedAdapter, ...] = ()
    """The promoted one, its predecessor, and those on their way into service."""
    retired: frozenset[str] = frozenset()
    """Adapters of ours that are unloaded where found. Names in neither place belong to others and stay."""


_ADAPTERS = """
WITH newest AS (
    SELECT adapter FROM promotions WHERE served_model = $1 ORDER BY generation DESC LIMIT 1
), behind AS (
    -- What it replaced when it was promoted: after a rollback to it, that is still where it would go back to.
    SELECT p.previous_adapter, (
        SELECT w.state = 'proven' FROM promotion_watches w
        WHERE w.served_model = $1 AND w.adapter = p.adapter ORDER BY w.started_at DESC LIMIT 1
    ) AS proven
    FROM promotions p JOIN newest n ON p.adapter = n.adapter
    WHERE p.served_model = $1 AND p.action = 'promote' ORDER BY p.generation DESC LIMIT 1
)
SELECT a.adapter, a.path, a.state,
       a.adapter IS NOT DISTINCT FROM n.previous_adapter AND n.proven IS NOT TRUE AS is_way_back,
       CASE WHEN a.state IN ('promoted', 'loading', 'probing') OR a.adapter IN (n.previous_adapter, $2) THEN
           (SELECT g.report -> 'probes' FROM gate_reports g
            WHERE g.adapter = a.adapter AND g.report ? 'probes'
            ORDER BY g.created_at DESC LIMIT 1)::text
       END AS probes
FROM adapters a LEFT JOIN behind n ON true
WHERE a.served_model = $1
ORDER BY a.state = 'promoted' DESC, a.created_at DESC, a.adapter
"""

_SERVED = frozenset({AdapterState.PROMOTED, AdapterState.LOADING, AdapterState.PROBING})
_RETIRED = frozenset(
    {AdapterState.SUPERSEDED, AdapterState.ROLLED_BACK, AdapterState.FAILED, AdapterState.REJECTED}
)


async def desired_state(conn: Connection, served_model: str, *, also: str | None = None) -> DesiredState:
    """The promoted adapter, the one before it until the watch has proven the new one, and those on their way in.

    ``also`` is wanted whatever its state: the adapter that a rollback is about to put back. Probes come from the
    newest gate report that has ``probes`` (a list of `Probe`).

    Raises:
        asyncpg's errors; msgspec.DecodeError for probes that are none.
    """
    wanted: list[WantedAdapter] = []
    retired: set[str] = set()
    for row in await conn.fetch(_ADAPTERS, served_model, also):
        state = AdapterState(row["state"])
        is_way_back = state is AdapterState.SUPERSEDED and row["is_way_back"]
        if state in _SERVED or is_way_back or row["adapter"] == also:
            probes = msgspec.json.decode(row["probes"] or b"[]", type=tuple[Probe, ...])
            wanted.append(WantedAdapter(row["adapter"], Path(row["path"]), probes))
        elif state in _RETIRED:
            retired.add(row["adapter"])
    return DesiredState(served_model=served_model, adapters=tuple(wanted), retired=frozenset(retired))
