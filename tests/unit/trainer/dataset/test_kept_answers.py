"""Answers that are kept are those of the same question to the same model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sentinel.events import Message
from trainer.dataset.kept_answers import FILE, KeptAnswers

ODD = "half a pair \ud800 and a\nline"


class Counting:
    """Answers with the question, and counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    async def ask(self, conversations: Sequence[Sequence[Message]], system: str | None) -> list[str]:
        self.asked += [(messages[-1].text, system) for messages in conversations]
        return [f"{system}: {messages[-1].text}" for messages in conversations]


def chats(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


async def test_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    model = Counting()
    said = await KeptAnswers(tmp_path, model.ask, about="one").ask(chats("a", ODD), None)
    assert said == ["None: a", f"None: {ODD}"]
    again = KeptAnswers(tmp_path, model.ask, about="one")
    assert await again.ask(chats(ODD, "b", "a"), None) == [f"None: {ODD}", "None: b", "None: a"]
    assert await again.ask(chats("a"), "Refuse.") == ["Refuse.: a"]
    assert model.asked == [("a", None), (ODD, None), ("b", None), ("a", "Refuse.")]


async def test_another_model_and_a_finished_data_set_take_none(tmp_path: Path) -> None:
    model = Counting()
    await KeptAnswers(tmp_path, model.ask, about="one").ask(chats("a"), None)
    other = KeptAnswers(tmp_path, model.ask, about="two")
    await other.ask(chats("a"), None)
    assert len(model.asked) == 2
    other.forget()
    other.forget()
    await KeptAnswers(tmp_path, model.ask, about="one").ask(chats("a"), None)
    assert len(model.asked) == 3


async def test_a_line_that_a_crash_cut_off_is_asked_again(tmp_path: Path) -> None:
    model = Counting()
    await KeptAnswers(tmp_path, model.ask, about="one").ask(chats("a", "b"), None)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-3])
    for _ in range(2):
        await KeptAnswers(tmp_path, model.ask, about="one").ask(chats("a", "b"), None)
    assert [text for text, _ in model.asked] == ["a", "b", "b"]
