"""Every value on the closed lists of labels is one that some part of the product reports."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from sentinel import metrics, outcomes
from sentinel.guards.observer import CallOutcome, Endpoint

ROOT = Path(__file__).resolve().parents[3]
LISTS = ("sentinel/metrics.py", "sentinel/outcomes.py")
"""Where the values are only listed."""

NOT_YET_SAID = {
    "guard_refused",  # a reason that a guard of its own may give; ours calls it an error
    "screened",  # a first stage in front of the guard clears an answer
}
"""Values of the stored contract that no part of this release gives."""

TREES = {
    name: ast.parse(path.read_text())
    for package in ("sentinel", "consumers", "producers", "daemon")
    for path in sorted((ROOT / package).rglob("*.py"))
    if (name := str(path.relative_to(ROOT))) not in LISTS and "/embedded/" not in name
}
WORDS = {
    node.value
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}


def first_words(*callees: str) -> set[str]:
    """The literal first arguments of calls whose function ends in one of these names."""
    return {
        str(call.args[0].value)
        for tree in TREES.values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith(callees)
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }


def returned_words(path: str, function: str) -> set[str]:
    """The literals inside the return statements of a function."""
    (found,) = (
        node for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef) and node.name == function
    )
    return {
        leaf.value
        for node in ast.walk(found)
        if isinstance(node, ast.Return) and node.value is not None
        for leaf in (
            (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,)
        )
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    }


def test_phases_are_those_that_are_measured() -> None:
    assert first_words(".phase", "phase_seconds.inc") == set(metrics.PHASES)


def test_retries_are_the_causes_that_the_recorder_names() -> None:
    assert returned_words("daemon/recorder.py", "_cause") == set(metrics.WRITE_RETRIES)


def test_requests_to_the_guard_are_those_that_its_client_names() -> None:
    assert set(get_args(Endpoint)) == set(metrics.GUARD_ENDPOINTS)
    assert set(get_args(CallOutcome)) == set(metrics.CALL_OUTCOMES)


@pytest.mark.parametrize(
    "values",
    [
        metrics.DEPENDENCIES,
        metrics.HALT_REASONS,
        metrics.OUTPUTS,
        *(tuple(sorted(reasons)) for reasons in metrics.REASONS.values()),
    ],
    ids=" ".join,
)
def test_a_listed_value_is_said_somewhere(values: tuple[str, ...]) -> None:
    assert set(values) - WORDS - NOT_YET_SAID == set()


def test_the_exceptions_are_still_exceptions() -> None:
    said = first_words("Unscored", "GuardFailure")
    assert said & NOT_YET_SAID == set()
    assert NOT_YET_SAID < outcomes.UNSCORED_REASONS
