"""What the route says itself, in the shape of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
from aiohttp import web

from sentinel.errors import SentinelError

JSON: Final = {"Content-Type": "application/json"}


class RouteError(SentinelError):
    """An answer of the route's own; ``outcome`` is the value of the metric's label."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        outcome: str,
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.outcome = outcome
        self.headers = headers or {}
        self.closes = closes

    def response(self) -> web.Response:
        """The HTTP answer."""
        kind = "invalid_request_error" if self.status < 500 else "api_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        response = web.Response(
            status=self.status, body=orjson.dumps({"error": error}), headers={**JSON, **self.headers}
        )
        if self.closes:
            response.force_close()
        return response


def unknown_model(name: str, known: list[str]) -> RouteError:
    """Nobody here answers under that name."""
    names = ", ".join(known) or "none"
    return RouteError(
        404,
        "model_not_found",
        f"The model `{name[:200]}` does not exist. Models: {names}.",
        outcome="unknown_model",
    )


def too_large(limit: int) -> RouteError:
    """A body longer than ``route.max_body_bytes``."""
    return RouteError(
        413,
        "request_too_large",
        f"The request body is longer than {limit} bytes.",
        outcome="too_large",
        # The rest of the body is still on its way: the connection cannot be used again.
        closes=True,
    )


def unavailable(timed_out: bool) -> RouteError:
    """No replica answered."""
    if timed_out:
        return RouteError(504, "upstream_timeout", "The model did not answer in time.", outcome="unavailable")
    return RouteError(502, "upstream_unavailable", "The model cannot be reached.", outcome="unavailable")


def adapter_missing() -> RouteError:
    """The promoted adapter is on no replica, and ``route.on_missing`` forbids the base."""
    return RouteError(
        503,
        "adapter_missing",
        "The adapter in service is loaded on no replica.",
        outcome="adapter_missing",
        headers={"Retry-After": "5"},
    )


def refused() -> RouteError:
    """A path that is for operators."""
    return RouteError(
        403, "forbidden", "Adapters are not loaded or unloaded through the route.", outcome="refused"
    )


def no_such_path(path: str) -> RouteError:
    """Outside /v1."""
    return RouteError(404, "not_found", f"Nothing is served at {path[:200]}.", outcome="refused")
