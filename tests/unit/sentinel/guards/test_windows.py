"""Long texts are seen whole, and the worst window decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.events import Message
from sentinel.guards.base import GuardFailure, GuardRequest, Judgement
from sentinel.guards.windows import WindowSize, cut, fits, windows, worst
from sentinel.verdicts import Assessment, Label, Role

SMALL = WindowSize(text=10, context=6, overlap=3)


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 50))
def test_windows_cover_every_character(length: int, size: int, overlap: int) -> None:
    # Every character differs, so that a piece has one place only.
    text = "".join(map(chr, range(0x4E00, 0x4E00 + length)))
    pieces = cut(text, size, overlap)
    assert all(len(piece) <= size for piece in pieces)
    position = 0
    for piece in pieces:
        # Each piece begins no later than where the ones before it ended.
        start = text.find(piece)
        assert 0 <= start <= position
        position = start + len(piece)
    assert position == length


def test_neighbours_share_the_overlap() -> None:
    assert cut("abcdefghijklmnop", 10, 3) == ["abcdefghij", "ghijklmnop"]
    assert cut("abcdefghij", 10, 3) == ["abcdefghij"]


def test_a_word_on_the_border_is_whole_in_one_window() -> None:
    text = "x" * 95 + "MARK" + "y" * 95
    assert any("MARK" in piece for piece in cut(text, 97, 4))


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=30)), max_size=5),
    st.one_of(st.none(), st.text(max_size=60)),
)
def test_every_window_fits(turns: list[tuple[str, str]], response: str | None) -> None:
    role = Role.PROMPT if response is None else Role.RESPONSE
    request = GuardRequest(role, tuple(Message(*turn) for turn in turns), response)
    made = windows(request, SMALL)
    assert made
    assert all(fits(piece, SMALL) for piece in made)
    assert all(piece.role is role for piece in made)


def test_response_windows_keep_the_newest_context() -> None:
    messages = (Message("user", "0123456789"), Message("assistant", "ab"), Message("user", "cde"))
    made = windows(GuardRequest(Role.RESPONSE, messages, "r" * 15), SMALL)
    assert [piece.response for piece in made] == ["r" * 10, "r" * 10]
    assert made[0].messages == (Message("user", "9"), Message("assistant", "ab"), Message("user", "cde"))


def test_prompt_windows_cut_the_asked_turn() -> None:
    messages = (Message("user", "old"), Message("user", "q" * 12), Message("assistant", "later"))
    made = windows(GuardRequest(Role.PROMPT, messages), SMALL)
    assert [[message.text for message in piece.messages] for piece in made] == [["old", "q" * 10]] * 2


def test_short_texts_are_asked_as_they_are() -> None:
    request = GuardRequest(Role.RESPONSE, (Message("user", "q"),), "a")
    assert windows(request, SMALL)[0] is request


def test_halving_ends_above_nothing() -> None:
    size = WindowSize(text=3, context=1, overlap=1)
    for _ in range(10):
        size = size.halved()
    assert size.text >= 2
    assert len(cut("abcdef", size.text, size.overlap)) > 1


def _said(label: Label, **more: object) -> Assessment:
    return Assessment(label=label, **more)  # type: ignore[arg-type]


FAILED = GuardFailure("guard_error", "x")
SAFE, CONTROVERSIAL = _said(Label.SAFE), _said(Label.CONTROVERSIAL)
UNPARSEABLE, UNSAFE = _said(Label.UNPARSEABLE), _said(Label.UNSAFE)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        ([SAFE, SAFE], Label.SAFE),
        ([SAFE, CONTROVERSIAL], Label.CONTROVERSIAL),
        ([CONTROVERSIAL, UNPARSEABLE, SAFE], Label.UNPARSEABLE),
        ([UNPARSEABLE, UNSAFE, SAFE], Label.UNSAFE),
        ([UNSAFE, FAILED], Label.UNSAFE),
    ],
)
def test_worst_label_wins(judged: list[Judgement], expected: Label) -> None:
    for order in (judged, judged[::-1]):
        won = worst(order)
        assert isinstance(won, Assessment)
        assert won.label is expected
        assert won.windows == len(judged)


@pytest.mark.parametrize("other", [SAFE, CONTROVERSIAL, UNPARSEABLE, FAILED])
def test_a_failed_window_is_never_safe(other: Judgement) -> None:
    assert worst([FAILED, other]) is FAILED
    assert worst([other, FAILED]) == FAILED


def test_parts_are_joined() -> None:
    won = worst(
        [
            _said(Label.UNSAFE, categories=("PII",), refusal=True, score=0.7, raw="first"),
            _said(Label.SAFE, refusal=False, score=0.1),
            _said(Label.UNSAFE, categories=("Violent", "PII"), score=0.9, raw="second"),
        ]
    )
    assert won == _said(
        Label.UNSAFE, categories=("PII", "Violent"), refusal=False, score=0.9, raw="first", windows=3
    )


def test_one_window_is_itself() -> None:
    assert worst([SAFE]) is SAFE
