"""The tiny model, what plain transformers says it answers, and the two servers, each started once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sentinel.embedded.model_server.threaded import ThreadedModelServer
from tests.integration.serving.client import Client
from tests.integration.serving.reference import Reference
from tests.support.tiny_llama import MAX_LEN, MAX_LORA_RANK, TinyLlama, build
from tests.support.vllm_server import VllmServer, require_vllm

BASE = "tiny"


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return build(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def reference(tiny_llama: TinyLlama) -> Reference:
    return Reference(tiny_llama)


@pytest.fixture(scope="session")
def embedded(tiny_llama: TinyLlama) -> Iterator[ThreadedModelServer]:
    with ThreadedModelServer(tiny_llama.model, name=BASE, max_lora_rank=MAX_LORA_RANK, max_loras=8) as server:
        yield server


@pytest.fixture(scope="session")
def vllm(tiny_llama: TinyLlama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    require_vllm()
    folder: Path = tmp_path_factory.mktemp("vllm")
    server = VllmServer(tiny_llama.model, folder, name=BASE, max_len=MAX_LEN, max_lora_rank=MAX_LORA_RANK)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def embedded_client(embedded: ThreadedModelServer) -> AsyncIterator[Client]:
    async with Client(embedded.url) as client:
        yield client
