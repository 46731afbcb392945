"""The contract of guard servers, on every server that there is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from sentinel.embedded.scripted_guard import MODEL, UNSAFE_MARK, ScriptedGuard
from sentinel.embedded.scripted_http import Faults
from tests.integration.guards.contract import GuardServer, GuardServerContract


class TestScriptedGuard(GuardServerContract):
    @pytest.fixture
    async def guard_server(self) -> AsyncIterator[GuardServer]:
        async with ScriptedGuard(max_chars=9_000) as server:
            yield GuardServer(server.url, MODEL, "qwen3guard", True, 30_000, UNSAFE_MARK)


class TestScriptedGuardWithoutBatches(GuardServerContract):
    @pytest.fixture
    async def guard_server(self) -> AsyncIterator[GuardServer]:
        async with ScriptedGuard(faults=Faults(batch_missing=True), max_chars=9_000) as server:
            yield GuardServer(server.url, MODEL, "qwen3guard", False, 30_000, UNSAFE_MARK)


@pytest.mark.vllm
class TestServedGuard(GuardServerContract):
    """A server that the environment names: ``SENTINEL_TEST_GUARD_URL``, ``_MODEL``, ``_GRAMMAR``, ``_CHARS``."""

    @pytest.fixture
    def guard_server(self) -> GuardServer:
        url = os.environ.get("SENTINEL_TEST_GUARD_URL")
        if not url:
            pytest.skip("SENTINEL_TEST_GUARD_URL is not set")
        return GuardServer(
            url,
            os.environ["SENTINEL_TEST_GUARD_MODEL"],
            os.environ.get("SENTINEL_TEST_GUARD_GRAMMAR", "qwen3guard"),
            os.environ.get("SENTINEL_TEST_GUARD_BATCH", "1") == "1",
            int(os.environ.get("SENTINEL_TEST_GUARD_CHARS", "200000")),
        )
