"""One GET of a server that is examined."""

from __future__ import annotations

from typing import Final

import aiohttp

LARGEST: Final = 8 << 20
"""Bytes of an answer that are read; what follows is left."""


async def fetch(url: str, *, limit_s: float, token: str | None = None) -> tuple[int, bytes]:
    """Status and body of ``url``, without following redirects. Raises OSError, TimeoutError and aiohttp's errors."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=limit_s)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(url, allow_redirects=False) as answer,
    ):
        pieces, size = [], 0
        # `read(n)` gives what has arrived so far: of a long list the beginning, which is no JSON.
        while size < LARGEST and (piece := await answer.content.readany()):
            pieces.append(piece)
            size += len(piece)
        return answer.status, b"".join(pieces)
