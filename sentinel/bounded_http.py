"""An httpx client for the openai library that reads no more of an answer than it was told.

Imported on first use only: httpx costs a tenth of a second, and a daemon that asks no model needs none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai


class TooLargeError(httpx.ReadError):
    """The answer is longer than allowed; the openai library reports it as a connection error."""


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._inner:
            size += len(piece)
            if size > self._limit:
                raise TooLargeError(f"the answer is larger than {self._limit} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def bounded_client(limit: int, timeout: httpx.Timeout) -> httpx.AsyncClient:
    """A client whose answers are at most ``limit`` bytes; compressed ones are not asked for.

    It raises `TooLargeError` while reading a longer one, and follows no redirects, which would carry the key
    and the conversation elsewhere.
    """

    async def bound(response: httpx.Response) -> None:
        # Before the body is read. A compressed answer could hide its size.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise TooLargeError("the answer is compressed although none was asked for")
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Bounded(response.stream, limit)

    return openai.DefaultAsyncHttpxClient(
        timeout=timeout,
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [bound]},
    )
