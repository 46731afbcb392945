"""Parts made from settings say where the other side is, and no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy.engine import make_url

from sentinel.errors import UnavailableError
from sentinel.store import connections

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


class AwayEngine:
    """An engine, as far as its address."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql+asyncpg://someone:hunter2@db.example:6432/d", "db.example:6432"),
        ("postgresql+asyncpg://someone:hunter2@db.example/d", "db.example:5432"),
        ("postgresql+asyncpg://someone:hunter2@/d?host=/run/postgresql", "/run/postgresql:5432"),
    ],
)
async def test_a_database_that_is_away_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str, place: str
) -> None:
    def refused(_: Any) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(connections, "raw_connection", refused)
    connect = connections.connect_to(cast("AsyncEngine", AwayEngine(url)))
    with pytest.raises(UnavailableError) as caught:
        async with connect():
            pass
    said = str(caught.value)
    assert f"the database at {place} is away (ConnectionRefusedError)" in said
    assert "sentinel doctor" in said
    assert "hunter2" not in said
    assert "someone" not in said
