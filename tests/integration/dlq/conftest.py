"""A store, and ``sentinel`` as a program over it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from sentinel.events import Origin
from sentinel.interactions import DeadLetter
from sentinel.settings import Database
from sentinel.store.engine import create_engine, raw_connection

Connect = Callable[[], AbstractAsyncContextManager["asyncpg.Connection[Any]"]]

SENTINEL = Path(sys.executable).with_name("sentinel")


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    engine = create_engine(Database.model_validate({"url": database_url}))
    yield lambda: raw_connection(engine)
    await engine.dispose()


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


class Program:
    """Runs ``sentinel`` with its settings in the environment."""

    def __init__(self, database_url: str) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "SENTINEL_DATABASE__URL": database_url,
        }

    def uses(self, bootstrap: str, topic: str) -> None:
        self.environment["SENTINEL_KAFKA__BOOTSTRAP_SERVERS"] = bootstrap
        self.environment["SENTINEL_KAFKA__TOPICS"] = topic

    async def __call__(self, *arguments: str, answer: str = "") -> Ran:
        process = await asyncio.create_subprocess_exec(
            SENTINEL,
            *arguments,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(answer.encode()), 180)
        assert process.returncode is not None
        return Ran(process.returncode, out, err.decode())


@pytest.fixture
def sentinel(database_url: str) -> Program:
    return Program(database_url)


def letter(offset: int, *, topic: str = "llm.events", item: int = 0, **changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "origin": Origin(topic, 0, 0, offset, item),
        "reason": "invalid_json",
        "detail": "line 1",
        "error_class": "PoisonError",
        "key": None,
        "value": b"{broken",
        "headers": (),
        "timestamp_ms": 1_700_000_000_000,
    }
    return DeadLetter(**{**values, **changes})
