"""No figure of an evaluation, a verdict or a demonstration is written into the code: each comes from counting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COUNTED = {
    "wilson": 2,
    "clopper_pearson": 2,
    "Rate": 4,
    "mcnemar": 2,
    "paired_bootstrap": 2,
    "Measured": 0,
    "Group": 0,
    "Length": 0,
    "ItemOutcome": 0,
}
"""Makers of figures, and how many of their positional arguments are counts or values."""

NAMED = {
    "value",
    "low",
    "high",
    "n",
    "hits",
    "mean",
    "ratio",
    "candidate",
    "incumbent",
    "unsafe",
    "useful",
    "refused",
}


def constants(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name not in COUNTED:
            continue
        given = [*node.args[: COUNTED[name]], *(key.value for key in node.keywords if key.arg in NAMED)]
        if any(isinstance(one, ast.Constant) and one.value is not None for one in given):
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_no_rate_is_made_of_literals() -> None:
    paths = [path for folder in ("trainer", "daemon", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    calls = 0
    found = {}
    for path in paths:
        source = path.read_text()
        calls += sum(source.count(f"{name}(") for name in COUNTED)
        if wrong := list(constants(source)):
            found[str(path.relative_to(ROOT))] = wrong
    assert found == {}
    assert calls > 10, "the makers have other names by now"


@pytest.mark.parametrize("line", ["wilson(19, 20)", "Rate(0.97, low, high, n)", "Measured(hits=3, n=n)"])
def test_a_literal_would_be_seen(line: str) -> None:
    assert list(constants(line))
