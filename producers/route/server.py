"""One request through the route, from the application's first byte to the answer's last.

1. refuse     what is not under /v1, and what loads adapters
2. read       a JSON body, to learn which model it is for; any other body is passed on as it comes
3. resolve    public name -> served model; a name that a replica serves -> itself
4. ask        replicas in turn (forward.py)
5. answer     the replica's status, headers and body, with the public name put back
6. report     the call to the publisher, after the last byte
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp import web

from producers.route import errors, headers, listing
from producers.route.events import KINDS, Call
from producers.route.exchange import Exchange
from producers.route.forward import Answer, Body, Forwarder, Wanted
from producers.route.mapping import Promotions
from producers.route.metrics import RouteMetrics
from producers.route.names import model_spans, text_at
from producers.route.publish import Publisher
from producers.route.replicas import Pool, known_names
from sentinel.clock import Clock
from sentinel.events import OWN_TRAFFIC_HEADER

_PREFIX: Final = "/v1/"
_MODELS: Final = "/v1/models"
_ADMIN: Final = "lora_adapter"
"""In the paths that load and unload adapters, which are for the product's own promotions only."""
_NO_MODEL: Final = "other"


class Handler:
    """Answers the requests of applications; one object for the process."""

    def __init__(
        self,
        pools: Sequence[Pool],
        promotions: Promotions,
        forwarder: Forwarder,
        metrics: RouteMetrics,
        *,
        clock: Clock,
        max_body_bytes: int,
        publisher: Publisher | None,
    ) -> None:
        self._pools = pools
        self._public: Mapping[str, Pool] = {pool.public_name: pool for pool in pools}
        self._promotions = promotions
        self._forwarder = forwarder
        self._metrics = metrics
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._publisher = publisher

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; whatever the route says itself has the shape of OpenAI's errors."""
        self._metrics.in_flight.inc()
        exchange = Exchange(request, self._clock, self._max_body_bytes)
        try:
            own = self._own_answer(request)
            if own is not None:
                return own
            answer, served_model = await self._ask(exchange)
            self._metrics.first_byte.observe(served_model, value=self._clock.monotonic() - exchange.began)
            return await self._pass_back(exchange, answer, served_model)
        except errors.RouteError as error:
            wanted = exchange.wanted
            named = _NO_MODEL if wanted is None else wanted.pool.served_model
            self._metrics.requests.inc(named, error.outcome)
            return error.response()
        finally:
            self._metrics.in_flight.dec()

    def _own_answer(self, request: web.BaseRequest) -> web.Response | None:
        """What needs no replica. Raises `RouteError` for what is refused."""
        path = request.path
        if not path.startswith(_PREFIX) or "/../" in path or path.endswith("/.."):
            if path == "/health":
                return web.Response()
            raise errors.no_such_path(path)
        if _ADMIN in path:
            raise errors.refused()
        if request.method in ("GET", "HEAD") and path.startswith(_MODELS):
            return listing.models(path.removeprefix(_MODELS).strip("/"), self._pools, self._promotions)
        return None

    async def _ask(self, exchange: Exchange) -> tuple[Answer, str]:
        """Steps 2 to 4; the answer and the served model's name. Raises `RouteError`."""
        request = exchange.request
        await exchange.expect()
        is_json = "json" in request.headers.get("Content-Type", "").lower()
        if not is_json or request.method in ("GET", "HEAD", "DELETE") or not request.can_read_body:
            pool = self._default()
            passed = headers.to_replica(request.headers, readable=False)
            stream = exchange.streamed_body(passed) if request.can_read_body else None
            exchange.start_clock()
            return await self._forwarder.ask_unnamed(request, passed, pool, stream), pool.served_model
        data = await exchange.whole_body()
        spans = [] if "Content-Encoding" in request.headers else list(model_spans(data))
        asked = text_at(data, spans[-1]) if spans else None
        exchange.start_clock()
        if asked is None:
            # No model, or no JSON: the replica knows what to say about it.
            pool = self._default()
            passed = headers.to_replica(request.headers, readable=False)
            return await self._forwarder.ask_unnamed(request, passed, pool, data), pool.served_model
        wanted = self._resolve(asked)
        exchange.wanted = wanted
        passed = headers.to_replica(request.headers, readable=True)
        body = Body(data, spans)
        return await self._forwarder.ask(request, passed, wanted, body), wanted.pool.served_model

    def _resolve(self, asked: str) -> Wanted:
        """Which served model a name means. Raises `RouteError` where it means none."""
        pool = self._public.get(asked)
        if pool is not None:
            return Wanted(pool, asked, mapped=True)
        for pool in self._pools:
            if pool.knows(asked) or self._promotions.adapter(pool.served_model) == asked:
                return Wanted(pool, asked, mapped=False)
        raise errors.unknown_model(asked, known_names(self._pools))

    def _default(self) -> Pool:
        """Who answers what names no model: the first served model."""
        return self._pools[0]

    async def _pass_back(self, exchange: Exchange, answer: Answer, served_model: str) -> web.StreamResponse:
        """Steps 5 and 6."""
        reply, replica = answer.reply, answer.replica
        exchange.captured = [] if self._capture(exchange, answer) else None
        outcome = "client_gone"  # cancelled: the application has left
        try:
            response, outcome = await exchange.pass_back(answer)
        except errors.RouteError as error:
            outcome = error.outcome
            return error.response()
        else:
            return response
        finally:
            replica.in_flight -= 1
            # Not read to its end: the replica stops writing what nobody reads.
            if not reply.content.at_eof():
                reply.close()
            self._metrics.requests.inc(served_model, outcome)
            self._metrics.seconds.observe(served_model, value=self._clock.monotonic() - exchange.began)
            self._report(exchange, answer)

    def _capture(self, exchange: Exchange, answer: Answer) -> bool:
        """Whether this call is one to report."""
        if self._publisher is None or exchange.wanted is None or not 200 <= answer.reply.status < 300:
            return False
        if exchange.request.path not in KINDS:
            return False
        if OWN_TRAFFIC_HEADER in exchange.request.headers:
            self._metrics.events.inc("own_traffic")
            return False
        return True

    def _report(self, exchange: Exchange, answer: Answer) -> None:
        """Hand the call to the publisher, also one that its application left half-way."""
        if exchange.overflow:
            self._metrics.events.inc("too_large")
        elif self._publisher is not None and exchange.captured and exchange.wanted and exchange.data:
            self._publisher.offer(
                Call(
                    kind=KINDS[exchange.request.path],
                    request=exchange.data,
                    answer=b"".join(exchange.captured),
                    streamed=exchange.is_stream,
                    model=exchange.wanted.asked,
                    served_by=answer.sent_name,
                    at=exchange.at,
                    traceparent=exchange.request.headers.get("traceparent"),
                )
            )
