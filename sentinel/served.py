"""To which served model an event belongs, and which of its weights answered: by the name that the event carries."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from sentinel.events import PromptEvent


class ServedModel(Struct, frozen=True, kw_only=True):
    """Names under which one set of base weights (and its adapters) answers."""

    name: str
    public_name: str
    base: str
    event_models: tuple[str, ...] = ()
    """Globs over the model names that events carry."""
    replicas: tuple[str, ...] = ()


class _History:
    """What a public name stood for, and since when."""

    def __init__(self, changes: Sequence[tuple[dt.datetime, str | None]]) -> None:
        self._since: list[float] = []
        self._adapters: list[str | None] = [None]
        for at, adapter in changes:
            # Transactions that begin in one order may take their turn in the other.
            self._since.append(max(at.timestamp() * 1000, self._since[-1] if self._since else 0.0))
            self._adapters.append(adapter)

    def at(self, moment_ms: float) -> str | None:
        return self._adapters[bisect_right(self._since, moment_ms)]


class ServedModels:
    """All served models; the first that matches wins. An event that matches none is only monitored.

    Names of adapters and bases are learnt while the process runs; until then events match by the settings alone.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self._adapters: Mapping[str, str] = {}
        self._bases: dict[str, str] = {}
        self._histories: Mapping[str, _History] = {}
        self.attributing = False
        """Whether anything is known by which `attributed` could say more than the settings do."""
        self._match = lru_cache(maxsize=1024)(self._search)

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def learn(
        self,
        adapters: Mapping[str, str],
        changes: Mapping[str, Sequence[tuple[dt.datetime, str | None]]],
    ) -> None:
        """Take over the served model of every adapter's name, and when each public name came to mean what.

        ``changes``: by served model, in the order of the generations; None stands for the base.
        """
        if adapters != self._adapters:
            self._adapters = dict(adapters)
            self._forget()
        self._histories = {name: _History(rows) for name, rows in changes.items() if rows}
        self.attributing = bool(self._adapters or self._bases or self._histories)

    def learn_bases(self, served_model: str, names: Iterable[str]) -> None:
        """Take over the names under which replicas serve the base itself; what was known stays known."""
        new = {name: served_model for name in names if name not in self._bases}
        if new:
            self._bases.update(new)
            self.attributing = True
            self._forget()

    def match(self, model: str | None) -> str | None:
        """Name of the served model that an event's model name belongs to."""
        return None if model is None else self._match(model)

    def attributed(self, event: PromptEvent, served_model: str) -> PromptEvent:
        """The event with the adapter (or the served base) that answered it, where that can be told.

        What the reporter says stands. Else the name is an adapter's or a base's own; else it is the public name,
        which stood for what was promoted at the event's time.
        """
        if event.served_by is not None or event.model is None:
            return event
        served_by = self._served_by(event, event.model, served_model)
        if served_by is None:
            return event
        return replace(event, served_by=served_by)

    def _served_by(self, event: PromptEvent, model: str, served_model: str) -> str | None:
        if model in self._adapters:
            return model
        if model == self._models[served_model].public_name:
            history = self._histories.get(served_model)
            return None if history is None else history.at(_moment_ms(event))
        return model if model in self._bases else None

    def _forget(self) -> None:
        self._match = lru_cache(maxsize=1024)(self._search)

    def _search(self, model: str) -> str | None:
        owner = self._adapters.get(model)
        if owner in self._models:
            return owner
        for served in self._models.values():
            if model in (served.public_name, served.base):
                return served.name
        if model in self._bases:
            return self._bases[model]
        for served in self._models.values():
            if any(fnmatchcase(model, pattern) for pattern in served.event_models):
                return served.name
        return None


def _moment_ms(event: PromptEvent) -> float:
    """When the call was made: the producer's time, but never after the record lay in the log."""
    received = event.received_ms if event.received_ms >= 0 else float("inf")
    if event.event_time is None:
        return received
    return min(event.event_time.timestamp() * 1000, received)
