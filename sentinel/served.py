"""To which served model an event belongs: by the name that answered it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct


class ServedModel(Struct, frozen=True, kw_only=True):
    """Names under which one set of base weights (and its adapters) answers."""

    name: str
    public_name: str
    base: str
    event_models: tuple[str, ...] = ()
    """Globs over the model names that events carry."""
    replicas: tuple[str, ...] = ()


class ServedModels:
    """All served models; the first that matches wins. An event that matches none is only monitored."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self._match = lru_cache(maxsize=1024)(self._search)

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def match(self, model: str | None) -> str | None:
        """Name of the served model that an event's model name belongs to."""
        return None if model is None else self._match(model)

    def _search(self, model: str) -> str | None:
        for served in self._models.values():
            if model in (served.public_name, served.base):
                return served.name
            if any(fnmatchcase(model, pattern) for pattern in served.event_models):
                return served.name
        return None
