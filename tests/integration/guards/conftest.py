"""A scripted guard on a free port, and clients of it that wait little."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sentinel.embedded.scripted_guard import MODEL, ScriptedGuard
from sentinel.guards.base import load_grammar
from sentinel.guards.client import GuardOptions, HttpGuard

QUICK: dict[str, Any] = {
    "retry_base": 0.005,
    "retry_cap": 0.02,
    "total_timeout": 5.0,
    "probe_timeout": 2.0,
    "patience": 5.0,
}

MakeGuard = Callable[..., HttpGuard]


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGuard]:
    async with ScriptedGuard(seed=7) as server:
        yield server


@pytest.fixture
async def make_guard(scripted: ScriptedGuard) -> AsyncIterator[MakeGuard]:
    made: list[HttpGuard] = []

    def make(**changes: Any) -> HttpGuard:
        options = GuardOptions(**({"base_url": scripted.url, "model": MODEL} | QUICK | changes))
        made.append(HttpGuard(options, load_grammar("qwen3guard"), rng=random.Random(5)))
        return made[-1]

    yield make
    for guard in made:
        await guard.aclose()
