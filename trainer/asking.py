"""Many conversations put to one model, greedily: evaluation, and the base's own answers for the data set.

The server speaks OpenAI's protocol and carries no traffic of users, so it may be kept busy; calls are bounded,
repeated with jitter where the server is only overloaded, and marked as the product's own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import aiohttp
import msgspec
import orjson
from msgspec import Struct

from sentinel.backoff import full_jitter, retry_after_seconds
from sentinel.clock import Clock, SystemClock
from sentinel.errors import DeniedError, UnavailableError
from sentinel.events import OWN_TRAFFIC_HEADER, Message
from sentinel.llm import conversation

Ask = Callable[[Sequence[Sequence[Message]], str | None], Awaitable[Sequence[str]]]
"""Conversations and a system instruction (or none) to the greedy answers of the base, in the same order."""

REJECTED: Final = "rejected"
"""Finish reason of a conversation that the server refuses to answer (too long, a role it does not know)."""

_REFUSED: Final = frozenset({400, 413, 422})
_OVERLOADED: Final = frozenset({408, 429, 500, 502, 503, 504})
_LARGEST_ANSWER: Final = 16 << 20

T = TypeVar("T")


class AskOptions(Struct, frozen=True, kw_only=True):
    """How the server is asked; durations in seconds."""

    base_url: str
    """With or without ``/v1``."""
    api_key: str | None = None
    max_tokens: int = 512
    seed: int = 0
    concurrency: int = 64
    """Conversations at the server at once."""
    attempts: int = 5
    """Tries of one conversation in all."""
    timeout: float = 300.0
    connect_timeout: float = 5.0
    retry_base: float = 0.25
    retry_cap: float = 10.0
    system_role: bool = True
    """False for chat templates without a system role: the instruction precedes the first user's text."""


class _NotFoundError(UnavailableError):
    """No such path, or no such model."""


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """What the model said; U+0000 is replaced."""

    text: str
    tokens: int = 0
    """Length of the answer by the server's count."""
    prompt_tokens: int = 0
    finish_reason: str | None = None
    """``stop``, ``length``, or `REJECTED` with an empty text."""


class _Message(Struct, gc=False):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct, gc=False):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _PromptLogprob(Struct, gc=False):
    logprob: float


class _Completion(Struct, gc=False):
    choices: list[_Choice]
    usage: _Usage | None = None
    prompt_logprobs: list[dict[str, _PromptLogprob] | None] | None = None


class _Card(Struct):
    id: str
    parent: str | None = None


class _Models(Struct):
    data: list[_Card]


class Asker:
    """One server. Use as ``async with``, in one event loop; calls may run concurrently."""

    def __init__(
        self, options: AskOptions, *, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        self.options = options
        self.url = options.base_url.rstrip("/").removesuffix("/v1")
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._slots = asyncio.Semaphore(options.concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._base: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; calls in flight are the caller's to end first."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def models(self) -> Mapping[str, str | None]:
        """Served names, each with its parent; None for a base. Raises UnavailableError, DeniedError."""
        body = await self._call("GET", "/v1/models", None)
        return {card.id: card.parent for card in self._decode(body, _Models).data}

    async def base(self) -> str:
        """The name of the base: the only entry of ``/v1/models`` without a parent.

        Raises:
            UnavailableError: there is none, or more than one.
        """
        if self._base is None:
            bases = [name for name, parent in (await self.models()).items() if parent is None]
            if len(bases) != 1:
                found = ", ".join(bases) or "none"
                raise UnavailableError(
                    f"{self.url} must list one model without a parent, the base; it lists {found}. "
                    "Serve adapters with their base as parent, as vLLM and the embedded server do"
                )
            self._base = bases[0]
        return self._base

    async def version(self) -> dict[str, str]:
        """What ``/version`` tells (vLLM: its version; the embedded server its name and data type too).

        Empty for a server without it. Raises UnavailableError when it is away.
        """
        try:
            told = orjson.loads(await self._call("GET", "/version", None))
        except (_NotFoundError, orjson.JSONDecodeError):
            return {}
        return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}

    async def answer(self, model: str, messages: Sequence[Message], system: str | None = None) -> Answer:
        """The greedy answer to one conversation; ``system`` is added to its system prompt.

        Raises:
            UnavailableError: no proper answer after all tries, or no such model.
            DeniedError: the key is not accepted.
        """
        options = self.options
        body: dict[str, Any] = {
            "model": model,
            "messages": conversation(messages, system, "system" if options.system_role else "user"),
            "temperature": 0,
            "seed": options.seed,
            "max_tokens": options.max_tokens,
        }
        async with self._slots:
            found = await self._call("POST", "/v1/chat/completions", body)
        if not found:
            return Answer(text="", finish_reason=REJECTED)
        completion = self._decode(found, _Completion)
        if not completion.choices:
            raise UnavailableError(f"{self.url} answered no choice")
        choice, usage = completion.choices[0], completion.usage or _Usage()
        said = choice.message.content or choice.message.refusal or ""
        return Answer(
            text=said.replace("\0", "\ufffd"),
            tokens=usage.completion_tokens or 0,
            prompt_tokens=usage.prompt_tokens or 0,
            finish_reason=choice.finish_reason,
        )

    async def answers(
        self,
        model: str,
        conversations: Sequence[Sequence[Message]],
        system: str | None = None,
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """The answers in order; ``done`` is told how many there are. Raises as `answer`, leaving no task behind."""
        found = [Answer(text="")] * len(conversations)
        places = iter(range(len(conversations)))
        ready = 0

        async def work() -> None:
            nonlocal ready
            for at in places:
                found[at] = await self.answer(model, conversations[at], system)
                ready += 1
                if done is not None:
                    done(ready)

        tasks = [
            asyncio.create_task(work()) for _ in range(min(self.options.concurrency, len(conversations)))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def ask(
        self, model: str, conversations: Sequence[Sequence[Message]], system: str | None = None
    ) -> list[str]:
        """The texts of `answers`."""
        return [answer.text for answer in await self.answers(model, conversations, system)]

    async def ask_base(
        self, conversations: Sequence[Sequence[Message]], system: str | None = None
    ) -> list[str]:
        """`ask` of the base: an `Ask`."""
        return await self.ask(await self.base(), conversations, system)

    async def likelihood(self, model: str, messages: Sequence[Message], answer: str) -> list[float] | None:
        """Natural-log probabilities of the tokens of ``answer``; None where the server does not give them.

        By vLLM's ``prompt_logprobs`` of chat completions, with and without the answer as the last turn: what the
        longer prompt adds is the answer. Raises UnavailableError.
        """
        asked = conversation(messages, None, "system")
        body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 1, "prompt_logprobs": 0}
        counts = []
        whole: list[dict[str, _PromptLogprob] | None] | None = None
        for turns, own in ((asked, False), ([*asked, {"role": "assistant", "content": answer}], True)):
            more = {"add_generation_prompt": not own, "continue_final_message": own}
            async with self._slots:
                found = await self._call("POST", "/v1/chat/completions", body | {"messages": turns} | more)
            if not found:
                return None
            told = self._decode(found, _Completion)
            counts.append((told.usage or _Usage()).prompt_tokens or 0)
            whole = told.prompt_logprobs
        if whole is None or not counts[0] < counts[1] == len(whole):
            return None
        # The first entry at each place is the prompt's own token.
        return [next(iter(place.values())).logprob for place in whole[counts[0] :] if place]

    # -- the wire

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        """The body of the answer; empty where the server refuses the request itself."""
        data = None if body is None else orjson.dumps(body)
        why, wait = "", None
        for attempt in range(self.options.attempts):
            if attempt:
                pause = full_jitter(attempt - 1, self.options.retry_base, self.options.retry_cap, self._rng)
                await asyncio.sleep(max(pause, wait or 0.0))
            why, wait = "", None
            try:
                async with self._connected().request(
                    method, self.url + path, data=data, allow_redirects=False
                ) as response:
                    text = await _whole(response)
            except TimeoutError:
                why = f"did not answer within {self.options.timeout:g} s"
                continue
            except (aiohttp.ClientError, OSError) as error:
                why = f"cannot be reached ({type(error).__name__})"
                continue
            status = response.status
            if status == 200:
                return text
            if status in _REFUSED and method == "POST":
                return b""
            if status in {401, 403}:
                raise DeniedError(f"{self.url} answered {status}: its API key is missing or wrong")
            if status == 404:
                raise _NotFoundError(f"{self.url}{path} answered 404: {_reason(text)}")
            if status not in _OVERLOADED:
                raise UnavailableError(f"{self.url}{path} answered {status}: {_reason(text)}")
            why = f"answered {status}"
            wait = retry_after_seconds(response.headers.get("Retry-After"), self._clock.now())
        raise UnavailableError(
            f"the model server {self.url} {why}, {self.options.attempts} times; see that it runs and that "
            "evaluation.server_url names it"
        )

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json", OWN_TRAFFIC_HEADER: "evaluation"}
            if self.options.api_key:
                headers["Authorization"] = f"Bearer {self.options.api_key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                # The semaphore bounds the calls; waiting for a connection would count against the time limit.
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(
                    total=self.options.timeout, sock_connect=self.options.connect_timeout
                ),
            )
        return self._session

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"{self.url} does not answer in the shape of OpenAI's API") from error


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > _LARGEST_ANSWER:
            response.close()
            raise UnavailableError(f"an answer is larger than {_LARGEST_ANSWER} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _reason(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])[:300]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
