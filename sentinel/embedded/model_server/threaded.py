"""A model server inside another process: a thread with its own event loop, for tests and demonstrations."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any, Self

from sentinel.embedded.model_server.app import ModelServer, create_app
from sentinel.embedded.model_server.loading import load
from sentinel.errors import UnavailableError

_STOP_S = 5
"""Seconds that running requests have to end."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; clients that connect before the server is up wait in its queue."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.listen(512)
    return bound


def uvicorn_server(server: ModelServer, **options: Any) -> Any:
    """Uvicorn around the application, without access log and signal handlers of its own."""
    import uvicorn

    config = uvicorn.Config(
        create_app(server),
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_STOP_S,
        **options,
    )
    return uvicorn.Server(config)


class ThreadedModelServer:
    """Serves one model folder. ``with ThreadedModelServer(folder, name="tiny") as server: server.url``."""

    def __init__(
        self, folder: Path, *, name: str, max_len: int | None = None, port: int = 0, **options: Any
    ) -> None:
        """``options`` go to `ModelServer`."""
        self._folder = folder
        self._name = name
        self._max_len = max_len
        self._port = port
        self._options = options
        self._thread: threading.Thread | None = None
        self._uvicorn: Any = None
        self.server: ModelServer
        self.url = ""

    def start(self) -> None:
        """Load the model and serve. Raises ConfigurationError, OSError (port), UnavailableError."""
        loaded = load(self._folder, max_len=self._max_len, threads=1)
        self.server = ModelServer(loaded, name=self._name, root=self._folder, **self._options)
        self._uvicorn = uvicorn_server(self.server)
        bound = listen("127.0.0.1", self._port)
        self._port = bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._serve, args=(bound,), name="model server", daemon=True)
        self._thread.start()

    def _serve(self, bound: socket.socket) -> None:
        with bound:
            asyncio.run(self._uvicorn.serve(sockets=[bound]))

    def stop(self) -> None:
        """End it; requests that run have five seconds."""
        if self._thread is None:
            return
        self._uvicorn.should_exit = True
        self._thread.join(3 * _STOP_S)
        if self._thread.is_alive():
            raise UnavailableError("the model server did not stop")
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
