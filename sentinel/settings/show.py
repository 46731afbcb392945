"""The effective settings for people: every key, its value with secrets masked, and where it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr

from sentinel.settings.load import Loaded
from sentinel.settings.names import find_key
from sentinel.settings.root import Settings

MASK: Final = "********"
DEFAULT: Final = "default"
_SECRET_PARAMETER: Final = re.compile(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    key: str
    value: Any
    """Plain JSON value, secrets masked."""
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Every effective setting, in the order of the settings file."""
    return [
        Row(".".join(path), shown(value), loaded.origins.get(path, DEFAULT))
        for path, value in _values(loaded.settings, ())
    ]


def defaults() -> list[Row]:
    """Every setting's default; settings without one (of served models) are left out."""
    return [Row(".".join(path), shown(value), DEFAULT) for path, value in _values(Settings(), ())]


def _values(model: BaseModel, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in type(model).model_fields:
        path, value = (*prefix, name), getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _values(value, path)
        elif isinstance(value, Mapping) and find_key(path) is None:
            for chosen, inner in value.items():
                yield from _values(inner, (*path, chosen))
        else:
            yield path, value


def shown(value: Any) -> Any:
    """A value as JSON knows it, without secrets. Addresses keep all but their passwords."""
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return masked_address(text) if "://" in text else MASK
    if isinstance(value, str):
        return masked_address(value) if "://" in value else value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return {name: shown(item) for name, item in value if item is not None}
    if isinstance(value, tuple):
        return [shown(item) for item in value]
    if isinstance(value, Mapping):
        return {name: shown(item) for name, item in value.items()}
    return value


def masked_address(text: str) -> str:
    """An address with its password and secret parameters masked; wholly masked where it cannot be read."""
    try:
        parts = urlsplit(text)
        user, has_user, host = parts.netloc.rpartition("@")
        name, has_password, _ = user.partition(":")
    except ValueError:
        return MASK
    # A password with an unescaped slash ends the host early: what follows would be shown as the path.
    if not host or "@" in parts.path or "@" in parts.query or "@" in parts.fragment:
        return MASK
    safe = f"{name}:{MASK}@{host}" if has_password else f"{user}{has_user}{host}"
    query = _SECRET_PARAMETER.sub(rf"\1{MASK}", f"?{parts.query}")[1:]
    return urlunsplit((parts.scheme, safe, parts.path, query, ""))
