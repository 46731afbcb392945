"""Which adapter stands behind each served model, kept in step with the table of promotions.

The last known mapping outlives the database (in memory) and the process (in a file): an outage at the moment of
a restart must not put the base back in front of the applications.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sentinel import logs
from sentinel.clock import Clock
from sentinel.store.engine import DATABASE_ERRORS, classify, raw_connection
from sentinel.store.promotions import Promoted, promoted

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logs.get("producers.route.mapping")
_DECODER: Final = msgspec.json.Decoder(dict[str, Promoted])
_READ_TIMEOUT_S: Final = 5.0

Read = Callable[[], Awaitable[Mapping[str, Promoted]]]


class Promotions:
    """The mapping itself: what the newest promotion that was ever seen put into service."""

    def __init__(self) -> None:
        self._current: dict[str, Promoted] = {}
        self.known = False
        """Whether the table, or the file of an earlier run, was read at least once."""

    def adapter(self, served_model: str) -> str | None:
        """Name of the adapter in service, None for the base."""
        current = self._current.get(served_model)
        return None if current is None else current.adapter

    def generation(self, served_model: str) -> int:
        """Number of its last change, 0 before the first."""
        current = self._current.get(served_model)
        return 0 if current is None else current.generation

    def current(self) -> Mapping[str, Promoted]:
        """All that is known, by served model."""
        return dict(self._current)

    def update(self, rows: Mapping[str, Promoted]) -> list[str]:
        """Take over what is newer; returns the served models that changed.

        A lower generation is a replica of the database that lags, or a restored one: taking it would undo a
        rollback.
        """
        self.known = True
        changed = [name for name, row in rows.items() if row.generation > self.generation(name)]
        for name in changed:
            self._current[name] = rows[name]
        return changed


class Follower:
    """Reads the table every ``interval`` seconds. `run` is a task of its own; it never raises for an outage."""

    def __init__(
        self,
        promotions: Promotions,
        read: Read,
        *,
        clock: Clock,
        interval: float,
        file: Path | None = None,
        changed: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        """``file`` keeps the mapping for the next start; ``changed`` hears of served models that moved."""
        self._promotions = promotions
        self._read = read
        self._clock = clock
        self._interval = interval
        self._file = file
        self._changed = changed
        self._away = False
        self.last_read = clock.monotonic()
        """Monotonic time of the last answer of the database, of the start before the first."""

    async def start(self) -> None:
        """Read once; where the database is away, take what the file of an earlier run says."""
        if not await self.read_once() and self._file is not None:
            rows = await asyncio.to_thread(_load, self._file)
            if rows is not None:
                self._promotions.update(rows)
                _log.warning(
                    "The mapping of the last run is used until the database answers.", action="mapping_file"
                )

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.read_once()

    async def read_once(self) -> bool:
        """One look at the table; False while the database is away or refuses."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                rows = await self._read()
        except DATABASE_ERRORS as error:
            if not self._away:
                # A wrong password or schema needs a person, and still no application may notice.
                (_log.error if classify(error) == "fatal" else _log.warning)(
                    "Promotions cannot be read; the last known mapping stands.",
                    action="mapping_away",
                    error=type(error).__name__,
                )
            self._away = True
            return False
        if self._away:
            _log.info("Promotions are read again.", action="mapping_back")
        self._away = False
        self.last_read = self._clock.monotonic()
        changed = self._promotions.update(rows)
        for name in changed:
            _log.info(
                "A served model changed.",
                action="mapping_changed",
                served_model=name,
                adapter=self._promotions.adapter(name) or "base",
                generation=self._promotions.generation(name),
            )
        if changed:
            self._changed(changed)
            if self._file is not None:
                await asyncio.to_thread(_save, self._file, self._promotions.current())
        return True


def reader(engine: AsyncEngine) -> Read:
    """Reads the table of promotions through ``engine``."""

    async def read() -> Mapping[str, Promoted]:
        async with raw_connection(engine) as connection:
            return await promoted(connection)

    return read


def _load(file: Path) -> Mapping[str, Promoted] | None:
    try:
        return _DECODER.decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.warning(
            "The mapping of the last run is unreadable.", action="mapping_file", error=type(error).__name__
        )
        return None


def _save(file: Path, rows: Mapping[str, Promoted]) -> None:
    written = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written.write_bytes(msgspec.json.encode(rows))
        # A crash in between must leave the old file or the new one, never half of one.
        written.replace(file)
    except OSError as error:
        _log.warning(
            "The mapping could not be kept for a restart.", action="mapping_file", error=type(error).__name__
        )
