"""Headers of the two connections: all pass through but those that belong to one connection (RFC 9110, 7.6.1)."""

from __future__ import annotations

from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy, istr

HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
ADAPTER_HEADER: Final = "x-sentinel-adapter"
"""Header of each answer of a served model: the adapter's name, or `BASE`."""
BASE: Final = "base"

_TO_REPLICA: Final = HOP_BY_HOP | {"host", "content-length", "expect"}
_CONNECTION: Final = istr("Connection")
_ACCEPT_ENCODING: Final = istr("Accept-Encoding")
_IDENTITY: Final = istr("identity")


def to_replica(headers: CIMultiDictProxy[str], *, readable: bool) -> CIMultiDict[str]:
    """Headers of the request that is sent on, without its length.

    ``readable``: ask for an answer that is not compressed, because the name in it will be replaced.
    """
    own = _named(headers.get(_CONNECTION))
    passed = CIMultiDict(
        [
            (name, value)
            for name, value in headers.items()
            if (lower := name.lower()) not in _TO_REPLICA and lower not in own
        ]
    )
    if readable:
        passed[_ACCEPT_ENCODING] = _IDENTITY
    return passed


def to_application(headers: CIMultiDictProxy[str], adapter: str | None, *, resized: bool) -> CIMultiDict[str]:
    """Headers of the answer. ``resized``: its length may change; ``adapter``: value of `ADAPTER_HEADER`."""
    own = _named(headers.get(_CONNECTION))
    passed = CIMultiDict(
        [
            (name, value)
            for name, value in headers.items()
            if (lower := name.lower()) not in HOP_BY_HOP
            and lower not in own
            and not (resized and lower == "content-length")
        ]
    )
    if adapter is not None:
        passed[ADAPTER_HEADER] = adapter
    return passed


def _named(connection: str | None) -> frozenset[str]:
    """Headers that ``Connection`` names as its own."""
    if not connection or connection.lower() in ("keep-alive", "close"):
        return frozenset()
    return frozenset(name.strip().lower() for name in connection.split(","))
