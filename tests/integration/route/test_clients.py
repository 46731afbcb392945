"""The stock `openai` clients, in Python and in JavaScript, with nothing changed but the base URL."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

from producers.route.headers import ADAPTER_HEADER
from sentinel.embedded import scripted_model as marks
from tests.integration.route.conftest import ADAPTER, PUBLIC, Make, Stage

ROOT = Path(__file__).resolve().parents[3]
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


def python_client(stage: Stage) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key="key", max_retries=0)


async def test_the_python_client(make: Make) -> None:
    stage = await make()
    await stage.promote(ADAPTER)
    async with python_client(stage) as client:
        raw = await client.chat.completions.with_raw_response.create(model=PUBLIC, messages=HELLO)
        assert raw.headers[ADAPTER_HEADER] == ADAPTER
        completion = raw.parse()
        assert completion.model == PUBLIC
        assert completion.choices[0].message.content == marks.SAFE_ANSWER
        assert stage.replicas[0].seen[-1].authorization == "Bearer key"

        text, total = "", 0
        async for chunk in await client.chat.completions.create(
            model=PUBLIC, messages=HELLO, stream=True, stream_options={"include_usage": True}
        ):
            assert chunk.model == PUBLIC
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            total = chunk.usage.total_tokens if chunk.usage else total
        assert (text, total) == (marks.SAFE_ANSWER, 2)

        async with client.chat.completions.stream(
            model=PUBLIC, messages=[{"role": "user", "content": marks.TOOL_MARK}]
        ) as stream:
            final = await stream.get_final_completion()
        (call,) = final.choices[0].message.tool_calls or []
        assert json.loads(call.function.arguments) == {"place": "Rome"}

        completions = await client.completions.create(model=PUBLIC, prompt="Hello?", n=2)
        assert [choice.text for choice in completions.choices] == [marks.SAFE_ANSWER] * 2
        assert [card.id async for card in client.models.list()] == [PUBLIC]


async def test_the_python_clients_errors(make: Make) -> None:
    stage = await make()
    async with python_client(stage) as client:
        with pytest.raises(openai.NotFoundError, match="assistant"):
            await client.chat.completions.create(model="nobody", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="context length"):
            await client.chat.completions.create(
                model=PUBLIC, messages=[{"role": "user", "content": marks.REJECT_MARK}]
            )
        stage.replicas[0].set_faults(slow_down_rate=1.0)
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model=PUBLIC, messages=HELLO)
        assert limited.value.response.headers["Retry-After"] == "1"
        await stage.replicas[0].stop()
        with pytest.raises(openai.InternalServerError, match="reached"):
            await client.chat.completions.create(model=PUBLIC, messages=HELLO)


@pytest.fixture(scope="module")
def node_modules() -> Path:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        if os.environ.get("SENTINEL_TEST_REQUIRE_NODE") == "1":
            pytest.fail(f"{missing[0]} is required", pytrace=False)
        pytest.skip(f"{missing[0]} was not found")
    subprocess.run([ROOT / "scripts" / "setup-node-clients"], check=True, timeout=120)
    return ROOT / ".cache" / "node-clients" / "node_modules"


async def test_the_javascript_client(make: Make, node_modules: Path) -> None:
    stage = await make()
    await stage.promote(ADAPTER)
    environment = {"PATH": os.environ["PATH"], "CLIENT_MODULES": str(node_modules)}
    result = await asyncio.to_thread(
        subprocess.run,
        ["node", Path(__file__).parent / "js" / "calls.mjs", stage.url, PUBLIC],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["plain"] == {"model": PUBLIC, "text": marks.SAFE_ANSWER, "adapter": ADAPTER}
    assert found["stream"] == {"text": marks.SAFE_ANSWER, "models": [PUBLIC], "usage": 2}
    assert found["tool"]["name"] == "look_up"
    assert json.loads(found["tool"]["arguments"]) == {"place": "Rome"}
    assert found["completion"] == 2
    assert found["models"] == [PUBLIC]
    assert (found["unknown"]["kind"], found["unknown"]["status"]) == ("NotFoundError", 404)
    assert PUBLIC in found["unknown"]["message"]
    assert (found["refused"]["kind"], found["refused"]["status"]) == ("BadRequestError", 400)
