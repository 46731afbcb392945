"""Where the safety instruction goes, and what is left alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest

from sentinel.events import Message
from sentinel.llm import conversation

RULE = "Answer safely."


@pytest.mark.parametrize(
    ("messages", "place", "expected"),
    [
        ([("user", "q")], "system", [("system", RULE), ("user", "q")]),
        (
            [("system", "You are Bo."), ("user", "q")],
            "system",
            [("system", f"You are Bo.\n\n{RULE}"), ("user", "q")],
        ),
        (
            [("developer", "You are Bo."), ("user", "q")],
            "system",
            [("system", f"You are Bo.\n\n{RULE}"), ("user", "q")],
        ),
        ([("system", ""), ("user", "q")], "system", [("system", RULE), ("user", "q")]),
        (
            [("user", "a"), ("assistant", "b"), ("user", "c")],
            "user",
            [("user", f"{RULE}\n\na"), ("assistant", "b"), ("user", "c")],
        ),
        ([("assistant", "b")], "user", [("user", RULE), ("assistant", "b")]),
        ([], "system", [("system", RULE)]),
        (
            [("user", "q"), ("assistant", "calls"), ("tool", "found")],
            "system",
            [("system", RULE), ("user", "q"), ("assistant", "calls"), ("user", "found")],
        ),
        ([("user", "a\0b")], "system", [("system", RULE), ("user", "a\ufffdb")]),
    ],
)
def test_place(
    messages: list[tuple[str, str]], place: Literal["system", "user"], expected: list[tuple[str, str]]
) -> None:
    sent = conversation([Message(*message) for message in messages], RULE, place)
    assert [(turn["role"], turn["content"]) for turn in sent] == expected


@pytest.mark.parametrize("place", ["system", "user"])
def test_without_an_instruction_nothing_is_added(place: Literal["system", "user"]) -> None:
    messages = [Message("system", "s"), Message("user", "  q\n")]
    assert conversation(messages, None, place) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "  q\n"},
    ]


def test_the_openai_library_loads_with_the_first_client_only() -> None:
    """Its import takes about a second, and a daemon that asks no model again needs none."""
    program = "import sys, sentinel.llm; print([m for m in ('openai', 'httpx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
