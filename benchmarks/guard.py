"""What a guard call costs the caller: `python -m benchmarks.guard --json FILE`.

A scripted guard runs as a process of its own and answers at once; measured is the processor time of this
process per judged text (780 characters), and the texts per second. `openai` is the same question through the
openai client, one text a call.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import uvloop

from benchmarks.report import Result, make_report, print_table, summarize, write_json
from sentinel.embedded.scripted_guard import MODEL
from sentinel.events import Message
from sentinel.guards.base import GuardRequest, load_grammar
from sentinel.guards.client import GuardOptions, HttpGuard
from sentinel.verdicts import Assessment, Role

TEXT: Final = "lorem ipsum " * 65
IN_FLIGHT: Final = 16
SINGLE_IN_FLIGHT: Final = 64
REQUESTS: Final = [
    GuardRequest(Role.PROMPT, (Message("user", TEXT),)),
    GuardRequest(Role.RESPONSE, (Message("user", "What is it?"),), TEXT),
]

Call = Callable[[], Awaitable[None]]


async def _sample(call: Call, texts_a_call: int, in_flight: int, texts: int) -> tuple[float, float]:
    """CPU microseconds a text, and texts a second, of about `texts` texts."""
    left = texts // texts_a_call

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    done = texts // texts_a_call * texts_a_call
    return (time.process_time() - cpu) / done * 1e6, done / (time.perf_counter() - wall)


async def _case(
    name: str, call: Call, texts_a_call: int, in_flight: int, texts: int, repetitions: int
) -> list[Result]:
    # Connections are opened and caches filled before the clock runs.
    await _sample(call, texts_a_call, in_flight, texts_a_call * in_flight * 4)
    samples = [await _sample(call, texts_a_call, in_flight, texts) for _ in range(repetitions)]
    return [
        summarize(name, "client_cpu", "us/text", [cpu for cpu, _ in samples]),
        summarize(name, "rate", "texts/s", [rate for _, rate in samples]),
    ]


def _guard(url: str, mode: Literal["batch", "single"]) -> HttpGuard:
    return HttpGuard(GuardOptions(base_url=url, model=MODEL, mode=mode), load_grammar("qwen3guard"))


async def _ours(
    url: str, mode: Literal["batch", "single"], size: int, texts: int, repetitions: int
) -> list[Result]:
    guard = _guard(url, mode)
    requests = [REQUESTS[index % 2] for index in range(size)]

    async def call() -> None:
        judged = await guard.assess(requests)
        if not all(isinstance(said, Assessment) for said in judged):
            raise RuntimeError("the guard failed a text, so the figure would be wrong")

    in_flight = IN_FLIGHT if mode == "batch" else SINGLE_IN_FLIGHT
    found = await _case(f"{mode} {size}", call, size, in_flight, texts, repetitions)
    await guard.aclose()
    return found


async def _openai(url: str, texts: int, repetitions: int) -> list[Result]:
    import openai

    client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none")

    async def call() -> None:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": TEXT}], temperature=0, max_tokens=128
        )
        if not answer.choices[0].message.content:
            raise RuntimeError("the guard answered nothing")

    found = await _case("openai single 1", call, 1, SINGLE_IN_FLIGHT, texts, repetitions)
    await client.close()
    return found


async def _run(texts: int, repetitions: int) -> list[Result]:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sentinel.embedded.scripted_guard", stdout=asyncio.subprocess.PIPE
    )
    try:
        if server.stdout is None:
            raise RuntimeError("the scripted guard has no output")
        url = (await server.stdout.readline()).decode().strip()
        results: list[Result] = []
        for size in (16, 32, 64):
            results += await _ours(url, "batch", size, texts, repetitions)
        results += await _ours(url, "single", 1, texts // 10, repetitions)
        results += await _openai(url, texts // 50, repetitions)
        return results
    finally:
        server.terminate()
        await server.wait()


def main() -> None:
    """Measure, print a table, and write the JSON object where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--texts", type=int, default=50_000, help="texts of one repetition of a batch case")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    results = uvloop.run(_run(options.texts, options.repetitions))
    libraries = ("aiohttp", "orjson", "msgspec", "uvloop", "openai", "httpx")
    report = make_report("guard", results, {"client": {name: version(name) for name in libraries}})
    print_table(report)
    if options.json:
        write_json(report, options.json)


if __name__ == "__main__":
    main()
