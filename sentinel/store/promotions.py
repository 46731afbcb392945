"""Promotions as they are read by whoever serves: the newest row of each served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

# The unique index on (served_model, generation), read backwards.
_NEWEST = """
SELECT DISTINCT ON (served_model) served_model, generation, adapter FROM promotions
ORDER BY served_model, generation DESC
"""


class Promoted(Struct, frozen=True):
    """What the newest promotion or rollback put into service."""

    generation: int
    """Rises with every change of one served model."""
    adapter: str | None
    """Name of the adapter, None for the base."""


async def promoted(conn: Connection) -> Mapping[str, Promoted]:
    """What is in service, by served model; a model that was never promoted is absent.

    Raises asyncpg's errors.
    """
    return {
        row["served_model"]: Promoted(row["generation"], row["adapter"]) for row in await conn.fetch(_NEWEST)
    }
