"""Refusals in OpenAI's shape, with vLLM's names of types."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from sentinel.errors import SentinelError

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}


class RequestError(SentinelError):
    """The request cannot be answered; ``status`` and the message go to the client."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param

    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        kind = _TYPES.get(self.status, HTTPStatus(self.status).phrase.replace(" ", "") + "Error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.status},
        }


class AdapterError(RequestError):
    """An adapter that this server does not load or does not have."""
