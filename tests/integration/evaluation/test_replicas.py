"""Whether evaluation asks the engine that the replicas run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from sentinel.settings import Settings
from trainer.evaluation.server import replicas_beside

HERE = {"name": "vllm", "version": "0.11.0", "dtype": "bfloat16"}


@asynccontextmanager
async def replica(**told: str) -> AsyncIterator[str]:
    """A server that tells so on ``/version``; nothing at all: it refuses."""

    async def version(request: web.Request) -> web.Response:
        return web.json_response(told) if told else web.Response(status=403)

    app = web.Application()
    app.router.add_get("/version", version)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def settings(*replicas: str) -> Settings:
    return Settings.model_validate(
        {"served_models": {"chat": {"public_name": "c", "base": "b", "replicas": list(replicas)}}}
    )


async def test_engine_and_version_are_compared_with_every_replica() -> None:
    async with (
        replica(version="0.11.0") as same,
        replica(version="0.10.2") as older,
        replica(engine="other", version="0.11.0", dtype="float32") as foreign,
        replica() as silent,
    ):
        assert await replicas_beside(settings(same, same), "chat", HERE) == "same"
        found = await replicas_beside(settings(same, older, foreign, silent), "chat", HERE)
    assert found.split(", ") == [
        "replica 2 runs vllm 0.10.2 bfloat16",
        "replica 3 runs other 0.11.0 float32",
        "replica 4 does not tell",
    ]
    # The port is closed by now.
    assert await replicas_beside(settings(same), "chat", HERE) == "replica 1 does not tell"


async def test_without_replicas_there_is_nothing_to_compare() -> None:
    assert await replicas_beside(settings(), "chat", HERE) == "none"
    assert await replicas_beside(settings(), "unnamed", HERE) == "none"
