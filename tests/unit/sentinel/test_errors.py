"""The error tree is complete: drawn as it is, explained, and every error in the product comes from it."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from sentinel import errors

ROOT = Path(__file__).resolve().parents[3]
CLASSES = [
    found
    for found in vars(errors).values()
    if inspect.isclass(found) and issubclass(found, Exception) and found.__module__ == errors.__name__
]


def drawn() -> dict[str, str | None]:
    """Parent by name, as the tree in the module's docstring draws it."""
    parents: dict[str, str | None] = {}
    branch: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"( *(?:[│ ]+)?(?:[├└]── )?)([A-Z]\w+Error)\b", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        branch = [entry for entry in branch if entry[0] < depth]
        parents[name] = branch[-1][1] if branch else None
        branch.append((depth, name))
    return parents


def test_the_tree_is_drawn_as_it_is() -> None:
    actual = {
        found.__name__: None if found is errors.SentinelError else found.__mro__[1].__name__
        for found in CLASSES
    }
    assert len(actual) > 8
    assert drawn() == actual


@pytest.mark.parametrize("found", CLASSES, ids=lambda found: found.__name__)
def test_every_error_says_what_it_means(found: type[Exception]) -> None:
    assert found.__dict__.get("__doc__")
    assert issubclass(found, errors.SentinelError)


def test_reasons_are_kept_apart_from_details() -> None:
    poison = errors.PoisonError("not_json", "byte 12")
    assert (poison.reason, poison.detail, str(poison)) == ("not_json", "byte 12", "not_json: byte 12")
    assert str(errors.PoisonError("not_json")) == "not_json"
    halted = errors.HaltedError("flood")
    assert (halted.reason, halted.detail, str(halted)) == ("flood", "", "flood")
    assert str(errors.HaltedError("flood", "99 of 100")) == "flood: 99 of 100"


def test_slow_down_keeps_how_long() -> None:
    assert errors.SlowDownError("busy", 2.5).retry_after == 2.5
    assert errors.SlowDownError("busy").retry_after is None


def test_no_module_grows_an_error_tree_of_its_own() -> None:
    # A private one that its own module raises and catches is flow, not an error that others must know.
    own = {
        f"{path.relative_to(ROOT)}: {node.name}"
        for package in ("sentinel", "consumers", "producers", "daemon", "trainer")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id in {"Exception", "BaseException"}
        if node.name != "SentinelError" and not node.name.startswith("_")
    }
    assert own == set()
