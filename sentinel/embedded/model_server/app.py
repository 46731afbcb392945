"""The HTTP side: routes, errors, admin token, metrics, and what happens when a client goes away."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from sentinel.clock import Clock, SystemClock
from sentinel.embedded.model_server.adapters import AdaptedModel
from sentinel.embedded.model_server.endpoints import Endpoints
from sentinel.embedded.model_server.engine import Engine
from sentinel.embedded.model_server.errors import RequestError
from sentinel.embedded.model_server.gauges import Gauges
from sentinel.embedded.model_server.loading import Loaded
from sentinel.embedded.model_server.protocol import (
    BatchChatRequest,
    ChatRequest,
    CompletionRequest,
    LoadRequest,
    UnloadRequest,
    decode,
)
from sentinel.embedded.model_server.registry import Registry
from sentinel.embedded.model_server.shapes import model_card

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

Handler = Callable[["Request"], Awaitable["Response"]]


class ModelServer:
    """Everything behind the routes. Its parts live from `serving`'s beginning to its end."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        name: str,
        root: Path,
        max_lora_rank: int = 16,
        max_loras: int = 8,
        max_batch: int = 64,
        admin_token: str | None = None,
        clock: Clock | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """``name``: what the base is called. ``admin_token``: who loads and unloads must bear it."""
        self._clock = clock or SystemClock()
        self._loaded = loaded
        self._root = root
        self._token = admin_token
        self._created = int(self._clock.now().timestamp())
        self._adapted = AdaptedModel(loaded.model, max_rank=max_lora_rank)
        self.engine = Engine(max_batch=max_batch, on_failure=on_failure)
        self.registry = Registry(name, self.engine, self._adapted, max_loras=max_loras)
        self._endpoints = Endpoints(loaded, self.registry, self.engine, self._clock)
        self._gauges = Gauges(self.engine, self.registry)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the model's thread; afterwards the model is free of adapters."""
        self.engine.start(self._adapted)
        try:
            yield
        finally:
            await self.engine.stop()

    # -- routes

    async def health(self, _: Request) -> Response:
        """200 while the model's thread lives."""
        if self.engine.failure is not None:
            raise RequestError(self.engine.failure, status=503)
        return _reply(None)

    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        from fastapi import Response

        return Response(self._gauges.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        """The base, then the adapters with the base as their parent."""
        base = self.registry.base
        card = model_card(
            base, root=str(self._root), parent=None, created=self._created, max_len=self._loaded.max_len
        )
        adapters = [
            model_card(name, root=str(adapter.path), parent=base, created=self._created, max_len=None)
            for name, adapter in self.registry.adapters.items()
        ]
        return _json({"object": "list", "data": [card, *adapters]})

    async def version(self, _: Request) -> Response:
        """What runs, and in which data type it computes; vLLM tells its version at the same place."""
        dtype = str(next(self._loaded.model.parameters()).dtype).removeprefix("torch.")
        return _json(
            {"engine": "sentinel-embedded", "version": metadata.version("sentinel-loop"), "dtype": dtype}
        )

    async def chat(self, request: Request) -> Response:
        """One conversation."""
        asked = decode(await request.body(), ChatRequest)
        generation, head = self._endpoints.chat(asked)
        if asked.stream:
            return _stream(self._endpoints.chat_events(asked, generation, head))
        return await _unless_gone(request, self._endpoints.chat_answer(asked, generation, head))

    async def chat_batch(self, request: Request) -> Response:
        """Several conversations, one choice each."""
        asked = decode(await request.body(), BatchChatRequest)
        generation, head = self._endpoints.chat(asked)
        return await _unless_gone(request, self._endpoints.chat_answer(asked, generation, head))

    async def completions(self, request: Request) -> Response:
        """Plain texts or token ids."""
        asked = decode(await request.body(), CompletionRequest)
        generation, head = self._endpoints.completion(asked)
        if asked.stream:
            return _stream(self._endpoints.completion_events(asked, generation, head))
        return await _unless_gone(request, self._endpoints.completion_answer(asked, generation, head))

    async def load_adapter(self, request: Request) -> Response:
        """Load a folder under a name."""
        self._admit(request)
        asked = decode(await request.body(), LoadRequest)
        if asked.load_inplace:
            raise RequestError("names are content-addressed: load_inplace is not supported")
        await self.registry.load(asked.lora_name, Path(asked.lora_path))
        return _reply(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        """Unload a name; answers when its last request is over."""
        self._admit(request)
        asked = decode(await request.body(), UnloadRequest)
        await self.registry.unload(asked.lora_name)
        return _reply(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    def _admit(self, request: Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise RequestError("a valid admin token is needed", status=401)


def create_app(server: ModelServer) -> FastAPI:
    """The application. It has no documentation pages: they would fetch scripts from elsewhere."""
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.serving():
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    for path, method, handler in (
        ("/health", "GET", server.health),
        ("/metrics", "GET", server.metrics),
        ("/version", "GET", server.version),
        ("/v1/models", "GET", server.models),
        ("/v1/chat/completions", "POST", server.chat),
        ("/v1/chat/completions/batch", "POST", server.chat_batch),
        ("/v1/completions", "POST", server.completions),
        ("/v1/load_lora_adapter", "POST", server.load_adapter),
        ("/v1/unload_lora_adapter", "POST", server.unload_adapter),
    ):
        app.add_route(path, handler, methods=[method])

    async def refused(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestError):  # the registration below lets nothing else in
            raise error
        return _json(error.body(), status=error.status)

    app.add_exception_handler(RequestError, refused)
    return app


async def _unless_gone(request: Request, answer: Any) -> Response:
    """``answer`` as JSON, or cancelled as soon as the client has gone: its rows would slow the others."""
    working = asyncio.create_task(answer)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return _json(working.result())
        return _json(RequestError("the client closed the connection", status=400).body(), status=499)
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stream(events: AsyncIterator[bytes]) -> Response:
    from fastapi.responses import StreamingResponse

    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _json(data: Any, *, status: int = 200) -> Response:
    from fastapi import Response

    return Response(orjson.dumps(data), status_code=status, media_type="application/json")


def _reply(text: str | None) -> Response:
    from fastapi import Response

    return Response(text or "", media_type="text/plain")
