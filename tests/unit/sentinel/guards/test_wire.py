"""What is read from a server's body, without a server."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import GuardOutputError
from sentinel.guards.base import load_grammar
from sentinel.guards.wire import _replies, encoded
from sentinel.verdicts import Label, Role


def _body(*choices: dict[str, Any]) -> bytes:
    return orjson.dumps({"id": "x", "object": "chat.completion", "choices": choices, "usage": None})


def _choice(index: int, content: str | None) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}


def test_replies_follow_the_index() -> None:
    body = _body(_choice(2, "c"), _choice(0, "a"), _choice(1, None))
    assert [reply.text for reply in _replies(body, 3)] == ["a", "", "c"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"choices": null}',
        b'{"choices": "x"}',
        _body(),
        _body(_choice(0, "a")),
        _body(_choice(0, "a"), _choice(0, "b")),
        _body(_choice(0, "a"), _choice(2, "b")),
        _body(_choice(-1, "a"), _choice(0, "b")),
        _body(_choice(0, "a"), _choice(1, "b"), _choice(2, "c")),
        _body(_choice(0, "a"), {"index": 1}),
        _body(_choice(0, "a"), {"index": 1, "message": {"content": ["a"]}}),
        _body(_choice(0, "a"), _choice(1, "b"))[:-5],
    ],
)
def test_anything_else_is_an_error(body: bytes) -> None:
    with pytest.raises(GuardOutputError):
        _replies(body, 2)


@given(st.binary(max_size=200))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with pytest.raises(GuardOutputError):
        _replies(body, 1)


def test_log_probabilities_in_the_form_that_vllm_sends() -> None:
    def token(text: str, logprob: float, top: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": top or []}

    content = [token("Safety", 0.0), token(":", 0.0), token(" Unsafe", -0.1, [token(" Unsafe", -0.6931)])]
    choice = _choice(0, "Safety: Unsafe\nCategories: Violent") | {"logprobs": {"content": content}}
    (reply,) = _replies(_body(choice), 1)
    read = load_grammar("qwen3guard").parse(Role.PROMPT, reply.text, reply.logprobs)
    assert (read.label, read.score) == (Label.UNSAFE, 1.0)


def test_lone_surrogates_are_replaced_only_where_there_are_some() -> None:
    conversation = [[{"role": "user", "content": "a\ud800b"}], [{"role": "user", "content": "☃"}]]
    assert orjson.loads(encoded(conversation)) == [
        [{"role": "user", "content": "a?b"}],
        [{"role": "user", "content": "☃"}],
    ]
