"""One HTTP exchange with a guard server: what is sent, how much is read back, what each failure means."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp
import msgspec
import orjson
from msgspec import Struct
from yarl import URL

from sentinel.backoff import retry_after_seconds
from sentinel.clock import Clock
from sentinel.errors import GuardOutputError, PoisonError, SlowDownError, UnavailableError
from sentinel.events import OWN_TRAFFIC_HEADER
from sentinel.guards.base import Conversation, TokenLogprob

SINGLE_PATH: Final = "/v1/chat/completions"
BATCH_PATH: Final = "/v1/chat/completions/batch"
"""vLLM's: ``messages`` is a list of conversations, the answer has one choice each, by ``index``."""

_LARGE_BODY: Final = 1 << 19
"""Bytes; larger bodies are streamed, since writing one piece blocks the loop (and aiohttp warns)."""

_REFUSED: Final = frozenset({400, 413, 422})
"""The request itself is at fault: repeating it unchanged cannot help."""


class PathMissingError(UnavailableError):
    """The server knows the path not (404, 405, 501), or knows no model of that name."""


class TimedOutError(UnavailableError):
    """No whole answer within the time limit."""


class Reply(Struct, frozen=True, gc=False):
    """The text that the guard generated for one conversation."""

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class _Message(Struct, gc=False):
    content: str | None = None


class _Logprobs(Struct, gc=False):
    content: tuple[TokenLogprob, ...] | None = None


class _Choice(Struct, gc=False):
    index: int
    message: _Message
    logprobs: _Logprobs | None = None


class _Completion(Struct, gc=False):
    choices: list[_Choice]


_DECODER: Final = msgspec.json.Decoder(_Completion)


class Wire:
    """Speaks the OpenAI chat protocol with one server over kept-alive connections.

    ``total_s`` bounds a whole exchange, ``connect_s`` the TCP and TLS handshakes. Proxies from the
    environment, redirects, cookies and compressed answers are not used: a redirect would carry the key
    elsewhere, and a compressed answer can hide its size.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        parameters: Mapping[str, Any],
        *,
        api_key: str | None,
        connect_s: float,
        total_s: float,
        max_response_bytes: int,
        clock: Clock,
    ) -> None:
        root = base_url.rstrip("/").removesuffix("/v1")
        self._single_url = URL(root + SINGLE_PATH)
        self._batch_url = URL(root + BATCH_PATH)
        self._tail = b"," + orjson.dumps({"model": model, **parameters})[1:]
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            OWN_TRAFFIC_HEADER: "guard",
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s)
        self._max_response_bytes = max_response_bytes
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections; the next call would open new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def batch(self, conversations: bytes, expected: int) -> list[Reply]:
        """A list of ``expected`` conversations, as `encoded`, in one request; one reply each, in order.

        Raises as `single` does.
        """
        return _replies(await self._post(self._batch_url, conversations), expected)

    async def single(self, conversation: bytes, timeout_s: float | None = None) -> Reply:
        """One conversation, as `encoded`.

        Raises:
            PoisonError: the server refuses this request (400, 413, 422); the reason is ``guard_error``.
            SlowDownError: 429, or 503 with Retry-After.
            PathMissingError: 404, 405 or 501.
            TimedOutError: no whole answer in time.
            UnavailableError: no connection, any other status but 200.
            GuardOutputError: 200 with a body that is not a chat completion, or is too large.
        """
        return _replies(await self._post(self._single_url, conversation, timeout_s), 1)[0]

    async def _post(self, url: URL, messages: bytes, timeout_s: float | None = None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # In-flight calls are bounded by the client's own semaphore; time spent waiting for a free
                # connection would count against the exchange's time limit.
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, enable_cleanup_closed=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=self._timeout,
                auto_decompress=False,
                trust_env=False,
            )
        body = b'{"messages":' + messages + self._tail
        timeout = self._timeout
        if timeout_s is not None:
            timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._timeout.sock_connect)
        try:
            async with self._session.post(
                url,
                data=body if len(body) < _LARGE_BODY else io.BytesIO(body),
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                answer = await self._read(response)
                if response.status == 200:
                    return answer
                raise self._error(response)
        except TimeoutError as error:
            raise TimedOutError(f"the guard did not answer within {timeout.total} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"the guard cannot be reached: {type(error).__name__}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._max_response_bytes
        if (response.content_length or 0) > limit:
            response.close()
            raise GuardOutputError(f"the guard's answer is larger than {limit} bytes")
        pieces = []
        size = 0
        while piece := await response.content.readany():
            size += len(piece)
            if size > limit:
                # Closing drops the connection; reading on would let the server fill our memory.
                response.close()
                raise GuardOutputError(f"the guard's answer is larger than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def _error(self, response: aiohttp.ClientResponse) -> Exception:
        status = response.status
        wait = response.headers.get("Retry-After")
        if status == 429 or (status == 503 and wait is not None):
            now: dt.datetime = self._clock.now()
            return SlowDownError(f"the guard answered {status}", retry_after_seconds(wait, now))
        if status in _REFUSED:
            return PoisonError("guard_error", f"the guard refused the request with {status}")
        if status in {404, 405, 501}:
            return PathMissingError(f"the guard answered {status}: no such path or no such model")
        if status in {401, 403}:
            return UnavailableError(f"the guard answered {status}: check guard.api_key")
        return UnavailableError(f"the guard answered {status}")


def encoded(messages: Conversation | Sequence[Conversation]) -> bytes:
    """The JSON of one conversation or of many. Never fails: what is no Unicode becomes question marks."""
    try:
        return orjson.dumps(messages)
    except TypeError:
        # A lone surrogate is no UTF-8: one such text would otherwise fail its whole batch for ever.
        return orjson.dumps(_encodable(messages))


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    return value


def _replies(body: bytes, expected: int) -> list[Reply]:
    try:
        choices = _DECODER.decode(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GuardOutputError("the guard's answer is no chat completion") from error
    if len(choices) != expected:
        raise GuardOutputError(f"the guard answered {len(choices)} choices for {expected} conversations")
    replies: list[Reply | None] = [None] * expected
    for choice in choices:
        if not 0 <= choice.index < expected or replies[choice.index] is not None:
            # Without this check a verdict could land on another event.
            raise GuardOutputError("the guard's choices are not numbered 0, 1, ...")
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        replies[choice.index] = Reply(choice.message.content or "", logprobs)
    return [reply for reply in replies if reply is not None]
