"""The client that asks: order, bounds, repeats, refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import orjson
import pytest

from sentinel.embedded.scripted_http import ScriptedServer
from sentinel.errors import DeniedError, UnavailableError
from sentinel.events import OWN_TRAFFIC_HEADER, Message
from trainer.asking import REJECTED, Asker, AskOptions
from trainer.evaluation.items import LoadedSet, SetItem
from trainer.evaluation.perplexity import reference_perplexity
from trainer.evidence import SetKind


class Server(ScriptedServer):
    """Answers with the question, after the system prompt where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, str | None] = {"base": None, "adapter": "base"}
        self.headers: list[Mapping[str, str]] = []

    def models(self) -> Mapping[str, str | None]:
        return self.names

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.headers.append(dict(headers))
        request = orjson.loads(body)
        if request["model"] not in self.names:
            return 404, b'{"error":{"message":"no such model"}}'
        said = "|".join(turn["content"] for turn in request["messages"])
        if "too long" in said:
            return 400, b'{"error":{"message":"context length"}}'
        choice = {"index": 0, "message": {"content": said or None}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": len(said)}
        return 200, orjson.dumps({"choices": [choice], "usage": usage})


def options(server: Server, **changes: object) -> AskOptions:
    quick = {"retry_base": 0.001, "retry_cap": 0.002, "timeout": 60.0}
    return AskOptions(base_url=f"{server.url}/v1", **quick | changes)  # type: ignore[arg-type]


def asked(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message("user", text),) for text in texts]


async def test_answers_come_in_order_and_bounded() -> None:
    async with Server() as server, Asker(options(server, concurrency=3)) as asker:
        server.set_faults(latency_low=0.0, latency_high=0.02)
        texts = [f"question {number}" for number in range(30)]
        seen: list[int] = []
        answers = await asker.answers("adapter", asked(*texts), done=seen.append)
        assert [answer.text for answer in answers] == texts
        assert [answer.tokens for answer in answers] == [len(text) for text in texts]
        assert {answer.finish_reason for answer in answers} == {"stop"}
        assert seen == list(range(1, 31))
        assert server.stats.max_in_flight == 3
        assert {headers[OWN_TRAFFIC_HEADER] for headers in server.headers} == {"evaluation"}


async def test_the_base_is_found_and_asked_with_an_instruction() -> None:
    async with Server() as server, Asker(options(server)) as asker:
        assert await asker.base() == "base"
        assert await asker.ask_base(asked("a", "b"), "Refuse.") == ["Refuse.|a", "Refuse.|b"]
        assert await asker.ask_base([]) == []
        assert await asker.version() == {}
        server.names = {"one": None, "two": None}
    async with Server() as server, Asker(options(server)) as asker:
        server.names = {"one": None, "two": None}
        with pytest.raises(UnavailableError, match="lists one, two"):
            await asker.base()


@pytest.mark.parametrize(
    "faults",
    [
        {"error_rate": 0.3},
        {"slow_down_rate": 0.3, "retry_after": "0"},
        {"reset_rate": 0.3},
        {"error_rate": 0.2, "error_status": 503},
    ],
)
async def test_an_overloaded_server_is_asked_again(faults: dict[str, object]) -> None:
    async with Server() as server, Asker(options(server, attempts=20)) as asker:
        server.set_faults(**faults)
        texts = [f"question {number}" for number in range(40)]
        assert await asker.ask("base", asked(*texts)) == texts
        assert server.stats.faults > 0


async def test_what_cannot_succeed_is_not_repeated() -> None:
    async with Server() as server, Asker(options(server)) as asker:
        answer = await asker.answer("base", asked("too long")[0])
        assert (answer.text, answer.finish_reason, server.stats.requests) == ("", REJECTED, 1)
        with pytest.raises(UnavailableError, match="404: no such model"):
            await asker.answer("nobody", asked("a")[0])
        assert server.stats.requests == 2
        server.set_faults(error_rate=1.0, error_status=401)
        with pytest.raises(DeniedError, match="API key"):
            await asker.answer("base", asked("a")[0])


async def test_a_server_that_is_away_ends_all_tasks() -> None:
    async with Server() as server, Asker(options(server, attempts=2, concurrency=4)) as asker:
        server.set_faults(error_rate=1.0)
        with pytest.raises(UnavailableError, match="2 times"):
            await asker.ask("base", asked(*"abcdefgh"))
        server.set_faults(error_rate=0.0, garbage_rate=1.0)
        with pytest.raises(UnavailableError, match="shape"):
            await asker.ask("base", asked("a"))
        assert len(asyncio.all_tasks()) <= 5  # the server's own


class Likelihoods(ScriptedServer):
    """Five tokens for the question, and one for each word of a last turn that is the assistant's."""

    def __init__(self) -> None:
        super().__init__()
        self.gives = True

    def models(self) -> Mapping[str, str | None]:
        return {"base": None}

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        request = orjson.loads(body)
        assert request["prompt_logprobs"] == 0
        last = request["messages"][-1]
        own = last["content"].split() if last["role"] == "assistant" else []
        assert request["continue_final_message"] is bool(own)
        assert request["add_generation_prompt"] is not bool(own)
        told: list[dict[str, dict[str, float]] | None] = [None, *({"1": {"logprob": -9.0}} for _ in range(4))]
        told += [{"2": {"logprob": -len(word) / 2}} for word in own]
        choice = {"message": {"content": "x"}}
        answer = {"choices": [choice], "usage": {"prompt_tokens": len(told)}}
        return 200, orjson.dumps(answer | ({"prompt_logprobs": told} if self.gives else {}))


async def test_perplexity_is_that_of_the_reference_answers_alone() -> None:
    item = SetItem(id="1", messages=(Message("user", "q"),), reference="ab abcd")
    bare = SetItem(id="2", messages=(Message("user", "r"),))
    harmful = LoadedSet(name="h", kind=SetKind.HARMFUL, items=(item,), sha256="h")
    utility = LoadedSet(name="u", kind=SetKind.UTILITY, items=(item, bare), sha256="u")
    async with Likelihoods() as server, Asker(AskOptions(base_url=server.url)) as asker:
        # exp of the mean of 1 and 2 nats
        assert await reference_perplexity(asker, "base", [harmful, utility]) == pytest.approx(math.exp(1.5))
        assert await reference_perplexity(asker, "base", [harmful]) is None
        server.gives = False
        assert await reference_perplexity(asker, "base", [utility]) is None
