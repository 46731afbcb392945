"""The two bodies of one request: read from the application, and passed back from the replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from producers.route import errors, headers
from producers.route.forward import Answer, Wanted
from producers.route.names import restored
from producers.route.stream import StreamRestorer
from sentinel.clock import Clock

_BROKEN: Final = (aiohttp.ClientError, OSError, TimeoutError)
"""What reading from a replica raises."""


class Exchange:
    """One request and its answer."""

    def __init__(self, request: web.BaseRequest, clock: Clock, max_body_bytes: int) -> None:
        self.request = request
        self.at = clock.now()
        self.began = clock.monotonic()
        """Monotonic time of the request's last byte (until then, of its headers)."""
        self.wanted: Wanted | None = None
        self.data: bytes | None = None
        """The request's body, where it was read whole."""
        self.captured: list[bytes] | None = None
        """What the replica sent; kept where it is a list."""
        self.overflow = False
        """Whether that became too much to keep."""
        self.is_stream = False
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._kept = 0

    def start_clock(self) -> None:
        """The request is here: what follows is time of the answer."""
        self.began = self._clock.monotonic()

    async def expect(self) -> None:
        """Answer ``Expect: 100-continue``, without which some clients wait a second before they send."""
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Not part of the answer, whose headers are still to come.
            self.request.writer.output_size = 0

    async def whole_body(self) -> bytes:
        """The body, kept in `data`. Raises `RouteError` where it is longer than allowed."""
        limit = self._max_body_bytes
        if (self.request.content_length or 0) > limit:
            raise errors.too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while piece := await self.request.content.readany():
            size += len(piece)
            if size > limit:
                raise errors.too_large(limit)
            pieces.append(piece)
        self.data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return self.data

    def streamed_body(self, passed: CIMultiDict[str]) -> AsyncIterator[bytes]:
        """The body as it comes; its length, where it is known, goes into ``passed``."""
        if self.request.content_length is not None:
            passed["Content-Length"] = str(self.request.content_length)
        return self.request.content.iter_any()

    async def pass_back(self, answer: Answer) -> tuple[web.StreamResponse, str]:
        """Send the answer; returns it with the value of the metric's label.

        Raises `RouteError` where the replica broke off before anything was sent.
        """
        reply = answer.reply
        kind = reply.headers.get("Content-Type", "").lower()
        rename = (
            self.wanted is not None
            and answer.sent_name != self.wanted.asked
            and "Content-Encoding" not in reply.headers
        )
        if answer.body is not None:
            return await self._send_whole(answer, answer.body, rename=rename)
        if self.request.method == "HEAD" or reply.status in (204, 304):
            response = self._begin(answer, resized=False)
            return await self._finish(response, _outcome(reply.status))
        if "text/event-stream" in kind:
            self.is_stream = True
            return await self._flow(answer, [], rename=rename)
        if "json" in kind and (rename or self.captured is not None):
            return await self._whole(answer, rename=rename)
        self.captured = None
        return await self._flow(answer, [], rename=False)

    async def _whole(self, answer: Answer, *, rename: bool) -> tuple[web.StreamResponse, str]:
        """Read a JSON body to its end and send it at once; one that is too long flows through as it is."""
        pieces: list[bytes] = []
        size = 0
        while size <= self._max_body_bytes:
            try:
                piece = await answer.reply.content.readany()
            except _BROKEN as error:
                raise errors.unavailable(timed_out=isinstance(error, TimeoutError)) from error
            if not piece:
                body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if self.captured is not None:
                    self.captured.append(body)
                return await self._send_whole(answer, body, rename=rename)
            pieces.append(piece)
            size += len(piece)
        self.overflow = True
        return await self._flow(answer, pieces, rename=False)

    async def _send_whole(
        self, answer: Answer, body: bytes, *, rename: bool
    ) -> tuple[web.StreamResponse, str]:
        if rename and self.wanted is not None and answer.sent_name is not None:
            body = restored(body, answer.sent_name, self.wanted.asked)
        reply = answer.reply
        response = web.Response(
            status=reply.status,
            reason=reply.reason,
            headers=headers.to_application(reply.headers, _adapter(answer), resized=True),
            body=body,
        )
        return await self._finish(response, _outcome(reply.status))

    async def _finish(self, response: web.StreamResponse, outcome: str) -> tuple[web.StreamResponse, str]:
        try:
            await response.prepare(self.request)
            # Here and not after the return: what follows must come after the last byte.
            await response.write_eof()
        except ConnectionError:
            return response, "client_gone"
        return response, outcome

    async def _flow(
        self, answer: Answer, begun: list[bytes], *, rename: bool
    ) -> tuple[web.StreamResponse, str]:
        """Pass the body on as it comes; what cannot be written yet holds the replica back."""
        reply = answer.reply
        restorer = None
        if rename and self.wanted is not None and answer.sent_name is not None:
            restorer = StreamRestorer(answer.sent_name, self.wanted.asked)
        response = self._begin(answer, resized=restorer is not None)
        try:
            await response.prepare(self.request)
            for piece in begun:
                await response.write(piece)
            while True:
                try:
                    piece = await reply.content.readany()
                except _BROKEN:
                    # A clean end would make half an answer look like a whole one.
                    if self.request.transport is not None:
                        self.request.transport.close()
                    return response, "broken_off"
                if not piece:
                    break
                self._keep(piece)
                out = restorer.feed(piece) if restorer is not None else piece
                if out:
                    await response.write(out)
            if restorer is not None and (rest := restorer.end()):
                await response.write(rest)
            await response.write_eof()
        except ConnectionError:
            return response, "client_gone"
        return response, _outcome(reply.status)

    def _begin(self, answer: Answer, *, resized: bool) -> web.StreamResponse:
        reply = answer.reply
        return web.StreamResponse(
            status=reply.status,
            reason=reply.reason,
            headers=headers.to_application(reply.headers, _adapter(answer), resized=resized),
        )

    def _keep(self, piece: bytes) -> None:
        if self.captured is None:
            return
        self._kept += len(piece)
        if self._kept > self._max_body_bytes:
            self.overflow = True
            self.captured = None
        else:
            self.captured.append(piece)


def _adapter(answer: Answer) -> str | None:
    """Value of the header that names who answered; None where no model was asked for."""
    return None if answer.sent_name is None else answer.adapter or headers.BASE


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    return "client_error" if status < 500 else "server_error"
