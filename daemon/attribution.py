"""Which adapter events are from: names and history, read now and then into memory, never for an event."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from typing import TYPE_CHECKING

from sentinel import logs
from sentinel.metrics import Metrics
from sentinel.served import ServedModels
from sentinel.store.adapters import names
from sentinel.store.engine import DATABASE_ERRORS
from sentinel.store.promotions import changes

if TYPE_CHECKING:
    from sentinel.store.connections import Connect


_log = logs.get("daemon.attribution")


class Attribution:
    """Keeps `ServedModels` in step with the tables of adapters and promotions."""

    def __init__(self, connect: Connect, served: ServedModels, metrics: Metrics, interval_s: float) -> None:
        self._connect = connect
        self._served = served
        self._metrics = metrics
        self._interval_s = interval_s

    async def refresh(self) -> None:
        """Read once. Raises what the database raises."""
        async with self._connect() as conn:
            adapters = await names(conn)
            rows = await changes(conn)
        histories: dict[str, list[tuple[dt.datetime, str | None]]] = defaultdict(list)
        for row in rows:
            histories[row.served_model].append((row.created_at, row.adapter))
            self._metrics.generation.set(row.served_model, row.generation)
        self._served.learn(adapters, histories)

    async def run(self) -> None:
        """Read until cancelled; while the database is away, what was read last stands."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.refresh()
            except DATABASE_ERRORS as error:
                _log.warning("Adapters and promotions could not be read.", action="attribute", error=error)
