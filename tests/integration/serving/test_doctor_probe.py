"""What the doctor learns from replicas about adapters, without changing what they serve: both engines, and faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from daemon.doctor import load_probe, models
from daemon.doctor.report import Finding, Level
from sentinel.embedded.model_server.threaded import ThreadedModelServer
from sentinel.settings import Settings
from tests.integration.serving.client import Client
from tests.integration.serving.conftest import BASE
from tests.integration.serving.reference import Reference
from tests.integration.serving.scripted_replica import ScriptedReplica
from tests.support.tiny_llama import MAX_LORA_RANK, TinyLlama
from tests.support.vllm_server import VllmServer


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = tmp_path / "adapters"
    made.mkdir()
    made.chmod(0o2750)
    return made


Examine = Callable[..., Any]


@pytest.fixture
def examine(store: Path) -> Examine:
    """Findings about one replica; those about folders above the store belong to the machine that tests run on."""

    async def run(url: str, **served: Any) -> Finding:
        settings = Settings.model_validate(
            {
                "adapters": {"store": store},
                "served_models": {"chat": {"public_name": "c", "base": "b", "replicas": [url], **served}},
            }
        )
        found = await load_probe.examine_adapters(settings)
        assert list(store.iterdir()) == []
        (about,) = (finding for finding in found if url in finding.message)
        assert about.level is Level.OK or about.remedy
        return about

    return run


class _Probed:
    """The same of every engine; subclasses give `url`."""

    async def test_it_is_asked_and_stays_as_it_was(
        self, url: str, examine: Examine, store: Path, reference: Reference
    ) -> None:
        async with Client(url) as client:
            before = await client.text(BASE, "abc")
            found = await examine(url, max_lora_rank=MAX_LORA_RANK)
            assert found.level is Level.OK, found
            assert f"reads adapters at {store} and takes rank {MAX_LORA_RANK}" in found.message
            assert await client.models() == {BASE: None}
            assert before == await client.text(BASE, "abc") == reference.text("base", "abc")

    async def test_a_rank_that_it_would_refuse(self, url: str, examine: Examine) -> None:
        found = await examine(url, max_lora_rank=2 * MAX_LORA_RANK)
        assert found.level is Level.FAIL, found
        assert f"refuses rank {2 * MAX_LORA_RANK}" in found.message
        assert "--max-lora-rank" in found.remedy

    async def test_a_path_at_which_it_sees_nothing(self, url: str, examine: Examine, tmp_path: Path) -> None:
        found = await examine(url, remote_prefix=str(tmp_path / "elsewhere"))
        assert found.level is Level.FAIL, found
        assert f"finds nothing at {tmp_path}/elsewhere/" in found.message
        assert "served_models.chat.remote_prefix" in found.remedy

    async def test_adapters_that_it_lists_are_told(
        self, url: str, examine: Examine, tiny_llama: TinyLlama
    ) -> None:
        async with Client(url) as client:
            await client.load("alpha", tiny_llama.alpha)
            try:
                assert (await examine(url)).level is Level.OK
                assert await client.models() == {BASE: None, "alpha": BASE}
            finally:
                await client.unload("alpha")


class TestEmbedded(_Probed):
    @pytest.fixture
    def url(self, embedded: ThreadedModelServer) -> str:
        return embedded.url

    async def test_how_many_it_can_hold(self, tiny_llama: TinyLlama, examine: Examine) -> None:
        with ThreadedModelServer(tiny_llama.model, name=BASE, max_loras=1) as server:
            found = await examine(server.url)
        assert found.level is Level.FAIL
        assert "holds 1 adapter at once" in found.message

    async def test_an_admin_token(self, tiny_llama: TinyLlama, examine: Examine) -> None:
        with ThreadedModelServer(tiny_llama.model, name=BASE, admin_token="secret") as server:
            assert (await examine(server.url, admin_token="secret")).level is Level.OK
            found = await examine(server.url, admin_token="guess")
        assert found.level is Level.FAIL
        assert found.remedy == "correct served_models.chat.admin_token"


@pytest.mark.vllm
class TestVllm(_Probed):
    @pytest.fixture
    def url(self, vllm: VllmServer) -> str:
        return vllm.url

    async def test_how_many_it_can_hold(self, url: str) -> None:
        async with Client(url) as client:
            await client.text(BASE, "abc")
        assert await load_probe._slots(url) == 4


# -- engines that answer otherwise


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedReplica]:
    async with ScriptedReplica() as server:
        yield server


async def test_an_engine_that_looks_at_nothing_is_left_as_it_was(
    scripted: ScriptedReplica, examine: Examine
) -> None:
    found = await examine(scripted.url)
    assert found.level is Level.WARN
    assert "without looking at their files" in found.message
    assert scripted.loaded == {}
    assert [call for call, _ in scripted.calls] == ["load_lora_adapter", "unload_lora_adapter"]


@pytest.mark.parametrize(
    ("reason", "level", "said"),
    [
        ("[Errno 13] Permission denied: '/adapters/x/adapter_config.json'", Level.FAIL, "may not read"),
        ("the moon is in the way", Level.WARN, "the moon is in the way"),
    ],
)
async def test_other_refusals(
    scripted: ScriptedReplica, examine: Examine, reason: str, level: Level, said: str
) -> None:
    scripted.refuses = reason
    found = await examine(scripted.url)
    assert found.level is level
    assert said in found.message


async def test_an_engine_that_is_away_is_not_judged(free_port: int, examine: Examine) -> None:
    found = await examine(f"http://127.0.0.1:{free_port}")
    assert found.level is Level.WARN
    assert "is not known" in found.message


@pytest.mark.parametrize("status", [404, 405])
async def test_an_engine_that_was_started_without_adapters(status: int, examine: Examine) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Not Found"}}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(app) as server:
        found = await examine(str(server.make_url("")).rstrip("/"))
    assert found.level is Level.FAIL
    assert "no /v1/load_lora_adapter" in found.message
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in found.remedy


# -- its list of models


async def listed(cards: list[Mapping[str, Any]], *, pieces: int = 1) -> Finding:
    """What the doctor says of a replica whose list comes in so many pieces."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = orjson.dumps({"object": "list", "data": cards})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        size = -(-len(body) // pieces)
        for start in range(0, len(body), size):
            await response.write(body[start : start + size])
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        settings = Settings.model_validate(
            {"served_models": {"chat": {"public_name": "c", "base": "b", "replicas": [url]}}}
        )
        (found,) = await models.examine_served(settings.served_models)
    return found


async def test_a_long_list_is_read_to_its_end() -> None:
    cards = [{"id": f"adapter-{number:04}" + "x" * 200, "parent": "base"} for number in range(2000)]
    found = await listed([{"id": "base", "parent": None}, *cards], pieces=50)
    assert found.level is Level.OK, found
    assert "serves base, and 2000 adapter(s): adapter-0000" in found.message
    assert found.message.endswith(", ...")


async def test_a_list_without_a_base() -> None:
    found = await listed([{"id": "alpha", "parent": "elsewhere"}])
    assert found.level is Level.WARN
    assert "no model without a parent" in found.message
