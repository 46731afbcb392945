"""The contract of engines, on the embedded server and on real vLLM."""

from __future__ import annotations

import pytest

from sentinel.embedded.model_server.threaded import ThreadedModelServer
from tests.integration.serving.client import Client
from tests.integration.serving.conftest import BASE
from tests.integration.serving.contract import Engine
from tests.integration.serving.parameters import ParameterContract
from tests.integration.serving.reference import Reference
from tests.integration.serving.swapping import SwapContract
from tests.support.tiny_llama import TinyLlama
from tests.support.vllm_server import VllmServer


class _Embedded:
    @pytest.fixture
    def engine(self, embedded: ThreadedModelServer) -> Engine:
        return Engine(
            url=embedded.url,
            base=BASE,
            tolerance=1e-4,
            exact=True,
            reads_shapes=True,
            echoes_together=True,
            base_beside_adapters=True,
        )


class _Vllm:
    @pytest.fixture
    def engine(self, vllm: VllmServer) -> Engine:
        return Engine(
            url=vllm.url,
            base=BASE,
            tolerance=1e-3,
            exact=False,
            reads_shapes=False,
            # Two prompts of one step kill the engine on the CPU where LoRA is enabled (vllm-project/vllm#16668).
            echoes_together=False,
            base_beside_adapters=False,
        )


class TestEmbedded(_Embedded, ParameterContract):
    pass


@pytest.mark.timeout(900)
class TestEmbeddedSwaps(_Embedded, SwapContract):
    pass


# The first of them also waits for the engine to start.
@pytest.mark.vllm
@pytest.mark.timeout(900)
class TestVllm(_Vllm, ParameterContract):
    pass


@pytest.mark.vllm
@pytest.mark.timeout(900)
class TestVllmSwaps(_Vllm, SwapContract):
    # On the CPU, index -1 (no adapter) reads the last slot: once that is filled, the base answers with its text.
    @pytest.mark.xfail(
        # Not strict: whether base and adapter rows meet in one batch is a matter of timing.
        strict=False,
        raises=AssertionError,
        reason="https://github.com/vllm-project/vllm/pull/48421",
    )
    async def test_the_base_stays_the_base_beside_adapters(
        self, client: Client, engine: Engine, tiny_llama: TinyLlama, reference: Reference
    ) -> None:
        await super().test_the_base_stays_the_base_beside_adapters(client, engine, tiny_llama, reference)
