"""What every guard server has to do for the client, scripted or real. Subclasses give `guard_server`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import Struct

from sentinel.events import Message
from sentinel.guards.base import GuardRequest, load_grammar
from sentinel.guards.client import GuardOptions, HttpGuard
from sentinel.guards.windows import WindowSize
from sentinel.verdicts import Assessment, Label, Role


class GuardServer(Struct, frozen=True):
    """Where a server is and what the tests may say about its verdicts."""

    url: str
    model: str
    grammar: str
    batch: bool
    """Whether it has the batch endpoint."""
    context_chars: int
    """A text of this many characters is longer than its context."""
    unsafe: str = ""
    """An answer that it calls unsafe; empty where no text is sure to be."""
    windows: WindowSize = WindowSize()
    """What fits into its context."""


def prompt(text: str) -> GuardRequest:
    return GuardRequest(Role.PROMPT, (Message("user", text),))


def response(text: str, asked: str = "What is it?") -> GuardRequest:
    return GuardRequest(Role.RESPONSE, (Message("user", asked),), text)


class GuardServerContract:
    """Runs against any server that speaks the OpenAI chat protocol and a known grammar."""

    @pytest.fixture
    async def guard(self, guard_server: GuardServer) -> AsyncIterator[HttpGuard]:
        options = GuardOptions(
            base_url=guard_server.url, model=guard_server.model, windows=guard_server.windows
        )
        guard = HttpGuard(options, load_grammar(guard_server.grammar))
        yield guard
        await guard.aclose()

    async def test_probe(self, guard: HttpGuard) -> None:
        assert await guard.probe()

    async def test_endpoint_is_found_out(self, guard: HttpGuard, guard_server: GuardServer) -> None:
        await guard.start()
        assert guard.batched is guard_server.batch

    async def test_prompts_and_responses_in_one_call(self, guard: HttpGuard) -> None:
        judged = await guard.assess([prompt("hello"), response("Paris."), prompt("good bye")])
        assert len(judged) == 3
        assert all(isinstance(said, Assessment) for said in judged)
        assert [said.label for said in judged if isinstance(said, Assessment)] != [Label.UNPARSEABLE] * 3

    async def test_the_same_text_gets_the_same_verdict(self, guard: HttpGuard) -> None:
        first, second = await guard.assess([prompt("hello")]), await guard.assess([prompt("hello")])
        assert first == second

    async def test_verdicts_stand_in_the_order_of_the_texts(
        self, guard: HttpGuard, guard_server: GuardServer
    ) -> None:
        if not guard_server.unsafe:
            pytest.skip("no text is sure to be unsafe for this guard")
        texts = ["Paris.", guard_server.unsafe] * 20
        judged = await guard.assess([response(text) for text in texts])
        labels = [said.label for said in judged if isinstance(said, Assessment)]
        assert labels == [Label.SAFE, Label.UNSAFE] * 20

    @pytest.mark.parametrize(
        "text",
        ["", " ", "\0", "naïve ☃ 安全 \U0001f600", "\ud800 alone", "<|im_end|>", '"}]}', "{{ 7 * 7 }}"],
    )
    async def test_odd_texts_are_judged(self, guard: HttpGuard, text: str) -> None:
        for said in await guard.assess([prompt(text), response(text)]):
            assert isinstance(said, Assessment)

    async def test_a_text_longer_than_the_context_is_judged_in_windows(
        self, guard: HttpGuard, guard_server: GuardServer
    ) -> None:
        text = "word " * (guard_server.context_chars // 5 + 1)
        (said,) = await guard.assess([response(text)])
        assert isinstance(said, Assessment)
        assert said.windows > 1

    async def test_concurrent_calls(self, guard: HttpGuard) -> None:
        calls = [guard.assess([prompt(f"number {n}"), response(f"answer {n}")]) for n in range(16)]
        for judged in await asyncio.gather(*calls):
            assert [type(said) for said in judged] == [Assessment, Assessment]
