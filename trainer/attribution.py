"""Which weights gave an answer: an adapter of ours, or the base."""

from __future__ import annotations

import datetime as dt
from typing import Any

import asyncpg
from msgspec import Struct


class Attribution(Struct, frozen=True, kw_only=True):
    """What is known about one served model's weights."""

    base: str | None
    """Name of the base, where it is known."""
    adapters: frozenset[str]
    """Every adapter that was ever made for it."""
    history: tuple[tuple[dt.datetime, str | None], ...]
    """What went into service, and when; oldest first."""

    def adapter(self, served_by: str | None, name: str | None, at: dt.datetime) -> str | None:
        """The adapter behind an answer, None for the base.

        As it was recorded with the event, else by the name that answered, else by what was in service ``at``
        that time: behind a gateway an event carries the public name only.
        """
        if served_by:
            return served_by if served_by in self.adapters else None
        if name in self.adapters:
            return name
        if name is not None and name == self.base:
            return None
        in_service = None
        for since, adapter in self.history:
            if since > at:
                break
            in_service = adapter
        return in_service


async def load_attribution(conn: asyncpg.Connection[Any], served_model: str, base: str | None) -> Attribution:
    """Read the adapters of a served model and when each was in service. Raises what asyncpg raises."""
    adapters = await conn.fetch("SELECT adapter FROM adapters WHERE served_model = $1", served_model)
    history = await conn.fetch(
        "SELECT created_at, adapter FROM promotions WHERE served_model = $1 ORDER BY generation", served_model
    )
    return Attribution(
        base=base,
        adapters=frozenset(row["adapter"] for row in adapters),
        history=tuple((row["created_at"], row["adapter"]) for row in history),
    )
