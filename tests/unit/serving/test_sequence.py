"""Text from tokens: characters in pieces, stop strings across tokens, what a stream may already show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sentinel.embedded.model_server.sampling import Sampling
from sentinel.embedded.model_server.sequence import Piece, Sequence_

END = 256


class Bytes:
    """A tokenizer whose tokens are bytes; 256 ends an answer."""

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return bytes(token for token in tokens if token != END).decode("utf-8", "replace")


def run(text: str, *, limit: int = 99, end: bool = True, **options: Any) -> list[Piece]:
    pieces: list[Piece] = []
    sequence = Sequence_(
        prompt=[1],
        sampling=Sampling(),
        max_tokens=limit,
        adapter=None,
        receive=pieces.append,
        tokenizer=Bytes(),
        stop_tokens=frozenset({END}),
        **options,
    )
    sequence.deliver = pieces.append
    for token in [*text.encode(), *([END] if end else [])]:
        if sequence.add(token, None):
            break
    return pieces


def texts(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces]


def test_a_whole_answer_comes_once() -> None:
    (piece,) = run("naïve ☃")
    assert piece.text == "naïve ☃"
    assert piece.finish == "stop"


def test_a_stream_shows_whole_characters_only() -> None:
    pieces = run("aé☃\U0001f600b", stream=True)
    assert texts(pieces) == ["a", "é", "☃", "\U0001f600", "b", ""]
    assert [piece.finish for piece in pieces] == [None] * 5 + ["stop"]


def test_the_limit_ends_an_answer_inside_a_character() -> None:
    (piece,) = run("a☃", limit=3)
    assert piece.text == "a\ufffd"
    assert piece.finish == "length"


def test_bytes_that_are_no_text_do_not_hold_the_stream_for_ever() -> None:
    pieces: list[Piece] = []
    sequence = Sequence_(
        prompt=[1], sampling=Sampling(), max_tokens=99, adapter=None, receive=pieces.append,
        tokenizer=Bytes(), stop_tokens=frozenset({END}), stream=True,
    )  # fmt: skip
    sequence.deliver = pieces.append
    for token in [0x80] * 10 + [END]:
        sequence.add(token, None)
    assert "".join(texts(pieces)) == "\ufffd" * 10
    assert len(pieces) > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "stops", "expected", "finish"),
    [
        ("one STOP two", ("STOP",), "one ", "stop"),
        ("one STO two", ("STOP",), "one STO two", "stop"),
        ("STOP", ("STOP",), "", "stop"),
        ("ST STOP", ("STOP",), "ST ", "stop"),
        ("aab", ("ab",), "a", "stop"),
        ("one two three", ("three", "two"), "one ", "stop"),
        ("snow ☃ man", ("☃",), "snow ", "stop"),
    ],
)
def test_stop_strings(stream: bool, text: str, stops: tuple[str, ...], expected: str, finish: str) -> None:
    pieces = run(text, stops=stops, stream=stream)
    assert "".join(texts(pieces)) == expected
    assert [piece.finish for piece in pieces if piece.finish] == [finish]


def test_a_stream_holds_back_what_may_become_a_stop_string() -> None:
    pieces = run("ab STxy", stops=("STOP",), stream=True)
    assert texts(pieces) == ["a", "b", " ", "STx", "y", ""]


def test_what_was_held_back_comes_at_the_end() -> None:
    pieces = run("ab ST", stops=("STOP",), stream=True)
    assert "".join(texts(pieces)) == "ab ST"
    pieces = run("ab ST", stops=("STOP",), stream=True, limit=5, end=False)
    assert "".join(texts(pieces)) == "ab ST"
    assert pieces[-1].finish == "length"
