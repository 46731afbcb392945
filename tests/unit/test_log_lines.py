"""Every log line of the product is one fixed sentence with an action, so that lines can be counted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sentinel", "consumers", "producers", "daemon", "trainer", "migrations")
LEVELS = {"debug", "info", "warning", "error"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in LEVELS
                    and re.search(r"\b_?log$", ast.unparse(node.func.value))
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_each_line_has_a_fixed_sentence_and_a_fixed_action() -> None:
    found = dict(calls())
    assert len(found) > 10
    for place, call in found.items():
        (sentence,) = call.args
        assert isinstance(sentence, ast.Constant), (
            f"{place}: the sentence varies; put what varies into fields"
        )
        assert re.fullmatch(r"[A-Z].*\.", str(sentence.value), re.DOTALL), f"{place}: not a sentence"
        actions = [word.value for word in call.keywords if word.arg == "action"]
        assert len(actions) == 1, f"{place}: no action"
        choices = [actions[0]]
        if isinstance(actions[0], ast.IfExp):
            choices = [actions[0].body, actions[0].orelse]
        for action in choices:
            assert isinstance(action, ast.Constant), f"{place}: the action varies"
            assert re.fullmatch(r"[a-z][a-z0-9_]*", str(action.value)), f"{place}: not a short name"


def test_nothing_logs_past_the_shared_way() -> None:
    """`logging.getLogger` and `print` know neither actions nor redaction."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name == "logs.py":
                continue
            text = path.read_text()
            assert not re.search(r"^\s*(import|from) structlog\b", text, re.MULTILINE), path
            assert not re.search(r"\blogging\.(getLogger|info|warning|error|exception)\(", text), path
