"""The contract of engines, on the embedded server and on real vLLM."""

from __future__ import annotations

import pytest

from sentinel.embedded.model_server.threaded import ThreadedModelServer
from tests.integration.serving.conftest import BASE
from tests.integration.serving.contract import Engine, EngineContract
from tests.integration.serving.swapping import SwapContract
from tests.support.vllm_server import VllmServer


class _Embedded:
    @pytest.fixture
    def engine(self, embedded: ThreadedModelServer) -> Engine:
        return Engine(embedded.url, BASE, tolerance=1e-4, exact=True, reads_shapes=True)


class _Vllm:
    @pytest.fixture
    def engine(self, vllm: VllmServer) -> Engine:
        return Engine(vllm.url, BASE, tolerance=1e-3, exact=False, reads_shapes=False)


class TestEmbedded(_Embedded, EngineContract):
    pass


class TestEmbeddedSwaps(_Embedded, SwapContract):
    pass


@pytest.mark.vllm
class TestVllm(_Vllm, EngineContract):
    pass


@pytest.mark.vllm
class TestVllmSwaps(_Vllm, SwapContract):
    pass
