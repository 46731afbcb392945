"""Sending a request on: to which replica, under which model name, and what an answer from there means."""

from __future__ import annotations

from collections.abc import AsyncIterable
from io import BytesIO
from typing import Final

import aiohttp
import orjson
from aiohttp import web
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from producers.route import errors
from producers.route.mapping import Promotions
from producers.route.metrics import RouteMetrics
from producers.route.names import Span, replaced
from producers.route.replicas import Pool, Replica, Watch
from sentinel import logs
from sentinel.clock import Clock
from sentinel.settings import Settings

_log = logs.get("producers.route.forward")

KEEP_ALIVE_S: Final = 4.0
"""Idle connections are closed before the replica does it (uvicorn: 5 s): a request that meets its closing fails."""
_LARGE_BYTES: Final = 256 * 1024
_MAX_404_BYTES: Final = 64 * 1024
_MISSING_LOG_S: Final = 60.0
_MAX_HEADER_BYTES: Final = 64 * 1024


def make_session(settings: Settings) -> aiohttp.ClientSession:
    """The client to all replicas; bodies come as they were sent, compressed or not. Close it after use."""
    route = settings.route
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(
            total=route.total_timeout_s, connect=None, sock_connect=route.connect_timeout_s
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )


class Wanted(Struct, frozen=True):
    """What a request is for."""

    pool: Pool
    asked: str
    """The model name as the application wrote it."""
    mapped: bool
    """Whether that is the public name, which stands for what is promoted; else one model of a replica."""


class Body(Struct, frozen=True):
    """A request that was read whole, so that it can be sent more than once."""

    data: bytes
    spans: list[Span]
    """Where it names its model."""

    def naming(self, name: str) -> bytes:
        """The bytes with that model name."""
        return replaced(self.data, self.spans, name) if self.spans else self.data


class Answer(Struct, frozen=True):
    """A reply that has begun; it counts in ``replica.in_flight`` until its taker takes it off again."""

    reply: aiohttp.ClientResponse
    replica: Replica
    sent_name: str | None
    """The model name that the replica was asked for."""
    adapter: str | None
    """Adapter that answers, None for the base or where no model was named."""
    body: bytes | None = None
    """The body, where it had to be read to understand the reply."""


class Forwarder:
    """Sends requests to the replicas of their served model."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        promotions: Promotions,
        watch: Watch,
        metrics: RouteMetrics,
        *,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._session = session
        self._promotions = promotions
        self._watch = watch
        self._metrics = metrics
        self._on_missing = settings.route.on_missing
        self._clock = clock
        self._logged: dict[tuple[str, str | None], float] = {}

    async def ask(
        self, request: web.BaseRequest, headers: CIMultiDict[str], wanted: Wanted, body: Body
    ) -> Answer:
        """Send a request that names a model. Raises `RouteError` where nobody can answer it."""
        pool = wanted.pool
        if not wanted.mapped:
            base = pool.is_base(wanted.asked)
            return await self._first(
                request, headers, pool, body, None if base else wanted.asked, direct=wanted.asked
            )
        adapter = self._promotions.adapter(pool.served_model)
        if adapter is None and self._promotions.known:
            return await self._first(request, headers, pool, body, None)
        if adapter is not None:
            try:
                return await self._first(request, headers, pool, body, adapter)
            except _AdapterMissingError:
                pass
        self._missing(pool, adapter)
        if self._on_missing == "error":
            raise errors.adapter_missing()
        return await self._first(request, headers, pool, body, None)

    async def ask_unnamed(
        self,
        request: web.BaseRequest,
        headers: CIMultiDict[str],
        pool: Pool,
        data: bytes | AsyncIterable[bytes] | None,
    ) -> Answer:
        """Send a request as it is. Raises `RouteError` where no replica can be reached."""
        failure: errors.RouteError | None = None
        for replica in pool.order(None):
            try:
                reply = await self._send(request, headers, replica, data)
            except _NotSentError as error:
                failure = error.answer
                continue
            return Answer(reply, replica, None, None)
        raise failure or errors.unavailable(timed_out=False)

    async def _first(
        self,
        request: web.BaseRequest,
        headers: CIMultiDict[str],
        pool: Pool,
        body: Body,
        adapter: str | None,
        *,
        direct: str | None = None,
    ) -> Answer:
        """The first replica that answers for ``adapter``, None for the base. ``direct``: asked by that name.

        Raises `_AdapterMissingError` where no replica has a mapped adapter; a model that was asked for by its
        own name gets the last replica's 404 instead.
        """
        failure: errors.RouteError | None = None
        lacking: Answer | None = None
        candidates = pool.order(adapter)
        if direct is not None and not candidates:
            candidates = pool.order(None)
        try:
            for replica in candidates:
                name = direct or adapter
                try:
                    if name is None:
                        answer, lacks = await self._base(request, headers, pool, replica, body)
                    else:
                        answer, lacks = await self._one(request, headers, replica, body, name, adapter)
                except _NotSentError as error:
                    failure = error.answer
                    continue
                if not lacks:
                    return answer
                if lacking is not None:
                    lacking.replica.in_flight -= 1
                lacking = answer
                replica.missing.add(answer.sent_name or "")
                if adapter is not None:
                    self._metrics.missing.inc(pool.served_model, "retried")
            if lacking is not None and (direct is not None or adapter is None):
                handed_on, lacking = lacking, None
                return handed_on
            if adapter is not None and (lacking is not None or not candidates):
                raise _AdapterMissingError
            raise failure or errors.unavailable(timed_out=False)
        finally:
            if lacking is not None:
                lacking.replica.in_flight -= 1

    async def _base(
        self,
        request: web.BaseRequest,
        headers: CIMultiDict[str],
        pool: Pool,
        replica: Replica,
        body: Body,
    ) -> tuple[Answer, bool]:
        """As `_one`, for the base, whose name may be a guess: asked again where it turns out to be another."""
        name = pool.base_of(replica)
        answer, lacks = await self._one(request, headers, replica, body, name, None)
        if not lacks:
            return answer, lacks
        again = True
        try:
            again = await self._renamed(pool, replica, name)
        finally:
            if again:
                replica.in_flight -= 1
        if not again:
            return answer, lacks
        return await self._one(request, headers, replica, body, pool.base_of(replica), None)

    async def _one(
        self,
        request: web.BaseRequest,
        headers: CIMultiDict[str],
        replica: Replica,
        body: Body,
        name: str,
        adapter: str | None,
    ) -> tuple[Answer, bool]:
        """One replica's answer, and whether it says that it has no model of that name.

        Such an answer was read to its end, and counts in ``in_flight`` as any other.
        """
        reply = await self._send(request, headers, replica, body.naming(name))
        if reply.status != 404:
            return Answer(reply, replica, name, adapter), False
        whole = False
        try:
            text = await _read_small(reply)
            whole = True
        finally:
            # The application left, or the replica broke off, while it was read.
            if not whole:
                replica.in_flight -= 1
        return Answer(reply, replica, name, adapter, text), text is not None and _says_missing(text, name)

    async def _renamed(self, pool: Pool, replica: Replica, refused: str) -> bool:
        """Whether the base has another name on a replica than the one that was guessed and refused.

        A replica whose list never came was asked by the name of the weights. Once refused, and not listed when
        asked for now, it is not asked for its list again before the next regular look.
        """
        if replica.cards is None and replica.may_have(refused):
            await self._watch.look_at(pool, replica)
        return pool.base_of(replica) != refused

    async def _send(
        self,
        request: web.BaseRequest,
        headers: CIMultiDict[str],
        replica: Replica,
        data: bytes | AsyncIterable[bytes] | None,
    ) -> aiohttp.ClientResponse:
        """Send to one replica. Raises `_NotSentError` where it never saw it, `RouteError` where it may have."""
        url = URL(replica.url + request.path_qs, encoded=True)
        answered = False
        replica.in_flight += 1
        try:
            reply = await self._session.request(
                request.method, url, headers=headers, data=_in_pieces(data), allow_redirects=False
            )
            answered = True
            return reply
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._watch.mark(replica, up=False, why=type(error).__name__)
            raise _NotSentError(errors.unavailable(timed_out=False)) from error
        except TimeoutError as error:
            raise errors.unavailable(timed_out=True) from error
        except (aiohttp.ClientError, OSError) as error:
            # The replica may be at work on it, or have died of it: the next one must not follow.
            _log.warning(
                "A replica broke off before it answered.",
                action="replica_broke_off",
                replica=replica.url,
                error=type(error).__name__,
            )
            raise errors.unavailable(timed_out=False) from error
        finally:
            if not answered:
                replica.in_flight -= 1

    def _missing(self, pool: Pool, adapter: str | None) -> None:
        """Count, and say once a minute, that the promoted adapter is nowhere."""
        self._metrics.missing.inc(pool.served_model, self._on_missing)
        at, now = (pool.served_model, adapter), self._clock.monotonic()
        if now - self._logged.get(at, float("-inf")) >= _MISSING_LOG_S:
            self._logged[at] = now
            if self._promotions.known:
                _log.error(
                    "The adapter in service is on no replica.",
                    action="adapter_missing",
                    served_model=pool.served_model,
                    adapter=adapter,
                    answered_with=self._on_missing,
                )
            else:
                _log.error(
                    "Which adapter is in service is unknown: the database was away since the start.",
                    action="adapter_unknown",
                    served_model=pool.served_model,
                    answered_with=self._on_missing,
                )


def _in_pieces(data: bytes | AsyncIterable[bytes] | None) -> bytes | AsyncIterable[bytes] | BytesIO | None:
    """A large body as a file, which the client writes piece by piece, others having their turn in between."""
    return BytesIO(data) if isinstance(data, bytes) and len(data) > _LARGE_BYTES else data


class _NotSentError(Exception):
    """No connection: the replica cannot have seen the request. ``answer`` is for the application."""

    def __init__(self, answer: errors.RouteError) -> None:
        super().__init__(answer.code)
        self.answer = answer


class _AdapterMissingError(Exception):
    """Every replica that could be asked lacks the adapter."""


async def _read_small(reply: aiohttp.ClientResponse) -> bytes | None:
    """The body of an error; None (nothing read) where it is longer than one that names a missing model."""
    if (reply.content_length or 0) > _MAX_404_BYTES:
        return None
    try:
        return await reply.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reply.close()
        raise errors.unavailable(timed_out=isinstance(error, TimeoutError)) from error


def _says_missing(body: bytes, name: str) -> bool:
    """Whether a 404 is about the model: an unknown path answers 404 too."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = said.get("error", said) if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return False
    return error.get("code") == "model_not_found" or name in str(error.get("message", ""))
