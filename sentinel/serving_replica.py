"""One replica's API: which names it serves, loading and unloading, greedy answers by tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import orjson
from msgspec import Struct

from sentinel.errors import SentinelError, UnavailableError
from sentinel.events import OWN_TRAFFIC_HEADER

PROBE_TOKENS: Final = 16
"""Tokens of an answer that a probe compares."""

_LARGEST_ANSWER: Final = 4 << 20

T = TypeVar("T")


class RefusedError(SentinelError):
    """The replica answered, and what it answered is no."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class ReplicaOptions(Struct, frozen=True, kw_only=True):
    """How replicas are called; durations in seconds."""

    connect_timeout: float = 2.0
    timeout: float = 10.0
    """For the list and for a probe's answer."""
    load_timeout: float = 60.0
    """For loading, and for unloading, which may wait for requests in flight."""


class _Card(Struct):
    id: str
    parent: str | None = None


class _Cards(Struct):
    data: list[_Card]


class _Entry(Struct):
    token: str


class _Logprobs(Struct):
    content: list[_Entry] | None = None


class _Choice(Struct):
    logprobs: _Logprobs | None = None


class _Completion(Struct):
    choices: list[_Choice]


class ReplicaClient:
    """Speaks with one API-server process. Every method raises UnavailableError when there is no proper answer."""

    def __init__(self, url: str, *, admin_token: str | None, options: ReplicaOptions) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._options = options
        self._headers = {"Content-Type": "application/json", OWN_TRAFFIC_HEADER: "probe"}
        if admin_token:
            self._headers["Authorization"] = f"Bearer {admin_token}"
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def models(self) -> Mapping[str, str | None]:
        """Served names, each with its parent; None for a base."""
        body = await self._call("GET", "/v1/models", None, self._options.timeout)
        return {card.id: card.parent for card in _decode(body, _Cards).data}

    async def load(self, name: str, path: str) -> None:
        """Load an adapter; ``path`` is read on the replica's host. Raises RefusedError with its reason."""
        body = {"lora_name": name, "lora_path": path}
        await self._call("POST", "/v1/load_lora_adapter", body, self._options.load_timeout)

    async def unload(self, name: str) -> None:
        """Unload an adapter. Raises RefusedError, for an unknown name too."""
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, self._options.load_timeout)

    async def greedy(self, model: str, question: str) -> tuple[str, ...]:
        """The first 16 tokens of the greedy answer, as text. Raises RefusedError (404: no such model)."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": PROBE_TOKENS,
            "logprobs": True,
        }
        answer = await self._call("POST", "/v1/chat/completions", body, self._options.timeout)
        choices = _decode(answer, _Completion).choices
        if not choices or choices[0].logprobs is None or choices[0].logprobs.content is None:
            raise UnavailableError(f"{self.url} answered without the log-probabilities it was asked for")
        return tuple(entry.token for entry in choices[0].logprobs.content[:PROBE_TOKENS])

    async def _call(self, method: str, path: str, body: Any, timeout_s: float) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                # Between two looks a server may drop an idle connection: that must not read as "down".
                connector=aiohttp.TCPConnector(force_close=True),
            )
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._options.connect_timeout)
        data = None if body is None else orjson.dumps(body)
        try:
            async with self._session.request(
                # A redirect would carry the admin token elsewhere.
                method,
                self.url + path,
                data=data,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                text = await _whole(answer)
        except TimeoutError as error:
            raise UnavailableError(f"{self.url} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{self.url} cannot be reached: {type(error).__name__}") from error
        if answer.status == 200:
            return text
        # vLLM answers 500 to an adapter that does not fit, with the reason in OpenAI's shape.
        if answer.status < 500 or path.endswith("_lora_adapter"):
            raise RefusedError(answer.status, _reason(text))
        raise UnavailableError(f"{self.url} answered {answer.status}")


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    while piece := await answer.content.readany():
        size += len(piece)
        if size > _LARGEST_ANSWER:
            answer.close()
            raise UnavailableError("the replica's answer is too large")
        pieces.append(piece)
    return b"".join(pieces)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError("the replica's answer has not the shape of OpenAI's API") from error


def _reason(body: bytes) -> str:
    try:
        error = orjson.loads(body)["error"]
        return str(error["message"])[:500]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
