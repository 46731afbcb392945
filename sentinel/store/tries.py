"""The budget of tries: how many candidates a version of the evaluation sets has already measured.

Whoever tests often enough finds a candidate that passes by luck. So the k-th distinct candidate of a served model
on one version is tested at alpha x 6 / (pi^2 k^2): these levels add up to less than alpha, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec import Struct

from sentinel.errors import CommandError

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

MAX_TRIES: Final = 20
"""Candidates that one version measures; afterwards it is retired and drawn anew."""


class Try(Struct, frozen=True, kw_only=True):
    """The k-th candidate that a version of the evaluation sets measures."""

    served_model: str
    version: str
    """`Evidence.sets_version`."""
    candidate_sha256: str
    k: int
    """1.. ; the same candidate keeps its number."""

    def level(self, alpha: float) -> float:
        """Level of every test of this try; the levels of all tries add up to ``alpha`` (6 / pi^2 sums 1 / k^2)."""
        return spent(alpha, self.k)


def spent(alpha: float, k: int) -> float:
    """The share of ``alpha`` that try ``k`` (1..) may use. Raises CommandError for k < 1."""
    if k < 1:
        raise CommandError(f"tries are counted from 1, there is no try {k}")
    return alpha * 6 / (math.pi * k) ** 2


async def next_try(
    conn: Connection,
    served_model: str,
    version: str,
    candidate_sha256: str,
    *,
    sets: Sequence[Mapping[str, Any]] = (),
    limit: int = MAX_TRIES,
) -> Try:
    """The number of this candidate's try, recorded and committed; call it before the first prompt is asked.

    Idempotent: a candidate that was counted keeps its number, also on a version that is retired by now. With the
    try that reaches ``limit`` the version is retired. ``conn`` must not be inside a transaction: what is rolled
    back later would have been asked without being counted. ``sets`` describes a version that is seen for the
    first time.

    Raises:
        CommandError: the version is retired, or ``conn`` is inside a transaction; asyncpg's errors.
    """
    if conn.is_in_transaction():
        raise CommandError(
            "a try must be committed before its first prompt is asked: not inside a transaction"
        )
    async with conn.transaction():
        await conn.execute(
            "INSERT INTO evaluation_versions (served_model, version, sets) VALUES ($1, $2, $3::text::jsonb)"
            " ON CONFLICT DO NOTHING",
            served_model,
            version,
            orjson.dumps(list(sets)).decode(),
        )
        # The version's row is the lock: two evaluations at once get different numbers.
        retired = await conn.fetchval(
            "SELECT retired_at FROM evaluation_versions WHERE served_model = $1 AND version = $2 FOR UPDATE",
            served_model,
            version,
        )
        known = await conn.fetchval(
            "SELECT k FROM evaluation_tries WHERE served_model = $1 AND version = $2 AND candidate_sha256 = $3",
            served_model,
            version,
            candidate_sha256,
        )
        last = await conn.fetchval(
            "SELECT coalesce(max(k), 0) FROM evaluation_tries WHERE served_model = $1 AND version = $2",
            served_model,
            version,
        )
        if known is None:
            if retired is not None or last >= limit:
                raise CommandError(
                    f"version {version[:12]} of the evaluation sets of {served_model} has measured {last} candidates"
                    " and is retired: draw new sets with `sentinel evalset build`, then train again"
                )
            known = last + 1
            await conn.execute(
                "INSERT INTO evaluation_tries (served_model, version, candidate_sha256, k) VALUES ($1, $2, $3, $4)",
                served_model,
                version,
                candidate_sha256,
                known,
            )
            if known >= limit:
                await conn.execute(
                    "UPDATE evaluation_versions SET retired_at = now()"
                    " WHERE served_model = $1 AND version = $2 AND retired_at IS NULL",
                    served_model,
                    version,
                )
    return Try(served_model=served_model, version=version, candidate_sha256=candidate_sha256, k=known)


async def require_budget(conn: Connection, served_model: str, version: str) -> None:
    """Look whether a new candidate could still be measured on ``version``; counts nothing.

    Raises:
        CommandError: the version is retired; asyncpg's errors.
    """
    retired = await conn.fetchval(
        "SELECT retired_at FROM evaluation_versions WHERE served_model = $1 AND version = $2",
        served_model,
        version,
    )
    if retired is not None:
        raise CommandError(
            f"version {version[:12]} of the evaluation sets of {served_model} is retired: draw new sets with"
            " `sentinel evalset build`"
        )
