"""What most integration tests stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sentinel.embedded.scripted_guard import ScriptedGuard


@pytest.fixture
async def guard() -> AsyncIterator[ScriptedGuard]:
    """A guard that says what the texts' marks ask for; its faults can be switched."""
    async with ScriptedGuard() as server:
        yield server
