"""The scripted servers as processes of their own, and their administration."""

from __future__ import annotations

import asyncio
import signal
import sys

import aiohttp
import pytest

from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.embedded.scripted_http import Faults
from tests.integration.guards.conftest import MakeGuard
from tests.integration.guards.contract import prompt


@pytest.mark.parametrize("module", ["scripted_guard", "scripted_model --obeys x"])
async def test_process_prints_its_address_and_ends_on_sigterm(module: str) -> None:
    name, *more = module.split()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"sentinel.embedded.{name}", *more, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip()
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "/health") as health:
                assert health.status == 200
            async with session.get(url + "/v1/models") as models:
                assert (await models.json())["data"][0]["id"].startswith("scripted-")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_faults_over_http(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    admin = scripted.url + "/admin/faults"
    async with aiohttp.ClientSession() as session:
        async with session.post(admin, json={"error_rate": 1.0, "error_status": 503}) as answer:
            assert (await answer.json())["error_status"] == 503
        async with session.post(admin, json={"error_rat": 1.0}) as answer:
            assert answer.status == 400
        assert not await make_guard().probe()
        async with session.delete(admin) as answer:
            assert answer.status == 200
        assert scripted.faults == Faults()
        await make_guard().assess([prompt("x")])
        async with session.get(scripted.url + "/admin/stats") as answer:
            stats = await answer.json()
        assert stats["faults"] == 3
        assert stats["batch_requests"] == 2
        async with session.get(scripted.url + "/nowhere") as answer:
            assert answer.status == 404


async def test_latency_is_drawn_between_the_bounds(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard()
    await guard.start()
    scripted.set_faults(latency_low=0.02, latency_high=0.06)
    loop = asyncio.get_running_loop()
    took = []
    for _ in range(12):
        start = loop.time()
        await guard.assess([prompt("x")])
        took.append(loop.time() - start)
    assert min(took) >= 0.02
    assert max(took) - min(took) > 0.005
