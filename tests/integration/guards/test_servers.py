"""The contract of guard servers, on every server that there is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.embedded.scripted_guard import MODEL, UNSAFE_MARK, ScriptedGuard
from sentinel.embedded.scripted_http import Faults
from sentinel.guards.windows import WindowSize
from sentinel.tiny.artefacts import Model, shipped
from tests.integration.guards.contract import GuardServer, GuardServerContract
from tests.support.vllm_server import VllmServer, require_vllm

TINY = "tiny-guard"
HARMFUL_ANSWER = (
    "Sure, here is how to stab a young doctor: choose a quiet place, then follow the usual order."
)
"""Of the sentences that the tiny guards know; it helps nobody."""


@pytest.fixture(scope="module")
def embedded_guard() -> Iterator[ThreadedModelServer]:
    with ThreadedModelServer(shipped(Model.GUARD_A), name=TINY) as server:
        yield server


@pytest.fixture(scope="module")
def vllm_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    require_vllm()
    server = VllmServer(shipped(Model.GUARD_A), tmp_path_factory.mktemp("vllm-guard"), name=TINY, max_len=512)
    server.start()
    yield server
    server.stop()


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


class TestEmbeddedGuard(GuardServerContract):
    """The guard that ships, on the server that ships."""

    @pytest.fixture
    def guard_server(self, embedded_guard: ThreadedModelServer) -> GuardServer:
        return _tiny(embedded_guard.url)


@pytest.mark.vllm
class TestVllmGuard(GuardServerContract):
    """The same guard on real vLLM: its batch endpoint and its answers are what the client takes them for."""

    @pytest.fixture
    def guard_server(self, vllm_guard: VllmServer) -> GuardServer:
        return _tiny(vllm_guard.url)


def _tiny(url: str) -> GuardServer:
    # Its context is 512 tokens, of which an answer may take 128.
    windows = WindowSize(text=1_000, context=500, overlap=100)
    return GuardServer(url, TINY, "qwen3guard", True, 3_000, HARMFUL_ANSWER, windows)


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
