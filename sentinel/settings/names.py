"""From the names that people write to the settings that exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache

from sentinel.settings.root import Key, keys

Path = tuple[str, ...]


@cache
def sections() -> frozenset[Path]:
    """Every proper prefix of a key, with ``*`` for names of the operator's choice."""
    return frozenset(path[:length] for path in keys() for length in range(1, len(path)))


def _pattern(path: Path) -> Path:
    """Replace the operator's name in ``served_models.NAME…`` by ``*``."""
    if len(path) > 1 and (path[0], "*") in sections():
        return (path[0], "*", *path[2:])
    return path


def find_key(path: Path) -> Key | None:
    """The setting at a concrete path, None where there is none."""
    return keys().get(_pattern(path))


def is_section(path: Path) -> bool:
    """Whether settings lie below this path."""
    return not path or _pattern(path) in sections()


def holds_names(path: Path) -> bool:
    """Whether the operator chooses the names below this path."""
    return (*path, "*") in sections()


def nearest(path: Path) -> str:
    """Dotted name of the known key or section that looks most like an unknown one."""
    written, last = ".".join(path), path[-1]
    concrete = _pattern(path)

    def likeness(candidate: Path) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, ".".join(concrete), ".".join(candidate)).ratio()
        own = difflib.SequenceMatcher(None, last, candidate[-1]).ratio()
        sibling = 0.2 if candidate[:-1] == concrete[:-1] else 0.0
        return max(whole, own) + sibling, whole

    found = max([*keys(), *sorted(sections())], key=likeness)
    found = tuple(name for name in found if name != "*") if found[-1] == "*" else found
    dotted = ".".join(found)
    return (
        dotted.replace(".*.", f".{path[1]}.")
        if len(path) > 2 and written.startswith(f"{found[0]}.")
        else dotted
    )


def variable_form(name: str) -> str:
    """How a name of the operator's choice is written in variables and credential files."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def chosen_name(written: str, known: Iterable[str]) -> str:
    """The operator's own spelling of a name that a variable writes in lower case."""
    return next((name for name in known if variable_form(name) == variable_form(written)), written)
