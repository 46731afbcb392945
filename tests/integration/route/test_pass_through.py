"""What applications see: bodies, streams, errors and headers of the replica, under the public name."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from producers.route.headers import ADAPTER_HEADER
from sentinel.embedded import scripted_model as marks
from tests.integration.route.conftest import ADAPTER, PUBLIC, Make
from tests.support.waiting import wait_until


async def test_the_promoted_adapter_answers_under_the_public_name(make: Make) -> None:
    stage = await make()
    reply = await stage.chat()
    assert (reply.status, reply.headers[ADAPTER_HEADER]) == (200, "base")
    await stage.promote(ADAPTER)
    reply = await stage.chat()
    assert reply.headers[ADAPTER_HEADER] == ADAPTER
    assert reply.headers["x-scripted"] == "yes"
    body = await reply.json()
    assert body["model"] == PUBLIC
    assert body["choices"][0]["message"]["content"] == marks.SAFE_ANSWER
    assert [seen.body["model"] for seen in stage.replicas[0].seen] == [marks.MODEL, ADAPTER]


async def test_only_the_model_name_of_a_request_changes(make: Make) -> None:
    stage = await make()
    await stage.promote(ADAPTER)
    body = (
        b'{ "seed" : 12345678901234567890123, "temperature":1.0e0,\n "metadata": {"model": "assistant"},'
        b' "model" :\t"assistant", "messages":[{"role":"user","content":"\\u00e9 \\"model\\": \\"assistant\\" '
        b'\\ud83d\\ude00"}], "tools": [{"type":"function","function":{"name":"f","parameters":{"model":"assistant"}}}]}'
    )
    got: list[tuple[bytes, dict[str, str]]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            got.append((await request.read(), dict(request.headers)))
        return web.Response(body=b'{"model":"adapter-1a2b", "x" : 1.0}', content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        stage.service.pools[0].replicas[0].url = "http://{}:{}".format(*runner.addresses[0])
        headers = {
            "Content-Type": "application/json",
            "Authorization": "Bearer secret-of-the-application",
            "X-Own": "1",
            "Connection": "keep-alive, x-hop",
            "X-Hop": "1",
        }
        async with stage.client.post(
            f"{stage.url}/v1/chat/completions?a=%2Fb&c=d", data=body, headers=headers
        ) as reply:
            assert await reply.read() == b'{"model":"assistant", "x" : 1.0}'
    finally:
        await runner.cleanup()
    (sent, sent_headers) = got[0]
    assert sent == body.replace(b'"model" :\t"assistant"', b'"model" :\t"adapter-1a2b"')
    assert sent_headers["Authorization"] == "Bearer secret-of-the-application"
    assert sent_headers["X-Own"] == "1"
    assert "X-Hop" not in sent_headers


@pytest.mark.parametrize("piece", [0, 7], ids=["events", "seven bytes at a time"])
@pytest.mark.parametrize("text", ["Hello?", marks.TOOL_MARK], ids=["text", "tool call"])
async def test_a_stream_is_the_replicas_but_for_the_name(make: Make, piece: int, text: str) -> None:
    stage = await make()
    await stage.promote(ADAPTER)
    replica = stage.replicas[0]
    replica.piece = piece
    asked = {
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "n": 2,
        "stream_options": {"include_usage": True},
    }
    bodies = []
    for url, model in ((replica.url, ADAPTER), (stage.url, PUBLIC)):
        async with stage.client.post(f"{url}/v1/chat/completions", json={"model": model, **asked}) as reply:
            assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            bodies.append(await reply.read())
    direct, routed = (body.replace(b"chatcmpl-2", b"chatcmpl-1") for body in bodies)
    assert routed == direct.replace(ADAPTER.encode(), PUBLIC.encode())
    assert routed.endswith(b"data: [DONE]\n\n")
    assert routed.count(PUBLIC.encode()) > 10


async def test_a_stream_arrives_while_it_is_made(make: Make) -> None:
    stage = await make()
    pieces = [b'data: {"model": "scripted-model", "n": %d}\n\n' % number for number in range(6)]
    arrived = asyncio.Semaphore(0)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            # The next one is made when this one was read: a route that gathered them would wait for ever.
            await arrived.acquire()
        return response

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    read = b""
    try:
        stage.service.pools[0].replicas[0].url = "http://{}:{}".format(*runner.addresses[0])
        body = {"model": PUBLIC, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with stage.client.post(f"{stage.url}/v1/chat/completions", json=body) as reply:
            async with asyncio.timeout(60):
                for number in range(len(pieces)):
                    while read.count(b"\n\n") <= number:
                        read += await reply.content.readany()
                    arrived.release()
            read += await reply.read()
    finally:
        await runner.cleanup()
    assert read == b"".join(pieces).replace(b"scripted-model", PUBLIC.encode())


@pytest.mark.parametrize(("mark", "status"), [(marks.BROKEN_MARK, 500), (marks.REJECT_MARK, 400)])
async def test_errors_are_the_replicas(make: Make, mark: str, status: int) -> None:
    stage = await make()
    reply = await stage.chat(mark)
    direct = await stage.client.post(
        f"{stage.replicas[0].url}/v1/chat/completions",
        json={"model": marks.MODEL, "messages": [{"role": "user", "content": mark}]},
    )
    assert reply.status == direct.status == status
    assert await reply.read() == await direct.read()
    outcome = "client_error" if status == 400 else "server_error"
    assert stage.metric("sentinel_route_requests_total", served_model="first", outcome=outcome) == 1


async def test_retry_after_comes_through(make: Make) -> None:
    stage = await make()
    stage.replicas[0].set_faults(slow_down_rate=1.0, retry_after="17")
    reply = await stage.chat()
    assert (reply.status, reply.headers["Retry-After"]) == (429, "17")


async def test_unknown_models_are_named_as_such(make: Make) -> None:
    stage = await make()
    reply = await stage.chat(model="nobody")
    error = (await reply.json())["error"]
    assert reply.status == 404
    assert error["code"] == "model_not_found"
    assert PUBLIC in error["message"]
    assert not stage.replicas[0].seen


@pytest.mark.parametrize("name", [marks.MODEL, ADAPTER])
async def test_a_replicas_own_names_are_passed_through(make: Make, name: str) -> None:
    stage = await make()
    reply = await stage.chat(model=name)
    assert reply.headers[ADAPTER_HEADER] == ("base" if name == marks.MODEL else name)
    assert (await reply.json())["model"] == name


async def test_the_list_of_models_has_the_public_name(make: Make) -> None:
    stage = await make()
    async with stage.client.get(f"{stage.url}/v1/models") as reply:
        assert [card["id"] for card in (await reply.json())["data"]] == [PUBLIC]
    async with stage.client.get(f"{stage.url}/v1/models/{PUBLIC}") as reply:
        assert (await reply.json())["id"] == PUBLIC
    async with stage.client.get(f"{stage.url}/v1/models/other") as reply:
        assert reply.status == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/load_lora_adapter", 403),
        ("/v1/unload_lora_adapter", 403),
        ("/v1/%6coad_lora_adapter", 403),
        ("/v1/x/%2e%2e/%2e%2e/load_lora_adapter", 404),
        ("/load_lora_adapter", 404),
        ("/metrics", 404),
    ],
)
async def test_what_belongs_to_operators_is_refused(make: Make, path: str, status: int) -> None:
    stage = await make()
    before = stage.replicas[0].stats.requests
    async with stage.client.post(URL(stage.url + path, encoded=True), json={"lora_name": "x"}) as reply:
        assert reply.status == status
        assert (await reply.json())["error"]["type"] == "invalid_request_error"
    assert stage.replicas[0].stats.requests == before


async def test_other_paths_and_bodies_pass_untouched(make: Make) -> None:
    stage = await make()
    got: list[tuple[str, str, bytes, str | None]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        got.append((request.method, request.path_qs, body, request.headers.get("Content-Type")))
        return web.Response(status=201, body=b"\x00\x01", headers={"Content-Type": "audio/wav", "ETag": "x"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        stage.service.pools[0].replicas[0].url = "http://{}:{}".format(*runner.addresses[0])
        large = bytes(range(256)) * 20_000
        for method, path, data, kind in [
            ("POST", "/v1/audio/transcriptions", large, "multipart/form-data; boundary=x"),
            ("POST", "/v1/audio/speech", b'{"input": "no model"}', "application/json"),
            ("GET", "/v1/files/a%20b?x=1&x=2", b"", None),
            ("DELETE", "/v1/files/1", b"", None),
            ("HEAD", "/v1/files/1", b"", None),
            ("POST", "/v1/batches/1/cancel", b"", None),
            ("POST", "/v1/chat/completions", b"{ this is no JSON", "application/json"),
        ]:
            headers = {"Content-Type": kind} if kind else {}
            async with stage.client.request(
                method, stage.url + path, data=io.BytesIO(data) if data else None, headers=headers
            ) as reply:
                assert (reply.status, await reply.read()) == (201, b"" if method == "HEAD" else b"\x00\x01")
                assert (reply.headers["Content-Type"], reply.headers["ETag"]) == ("audio/wav", "x")
            seen = [item for item in got if item[1] != "/v1/models"][-1]
            assert seen[:3] == (method, path, data)
            assert kind is None or seen[3] == kind
    finally:
        await runner.cleanup()


async def test_compressed_answers_stay_as_they_are(make: Make) -> None:
    stage = await make()
    packed = gzip.compress(b'{"model":"scripted-model"}')

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            body=packed, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
        )

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        stage.service.pools[0].replicas[0].url = "http://{}:{}".format(*runner.addresses[0])
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.post(f"{stage.url}/v1/chat/completions", json={"model": PUBLIC}) as reply,
        ):
            assert reply.headers["Content-Encoding"] == "gzip"
            assert await reply.read() == packed
    finally:
        await runner.cleanup()


async def test_bodies_are_bounded(make: Make) -> None:
    stage = await make(**{"route.max_body_bytes": "10000"})
    reply = await stage.chat("x" * 20_000)
    assert reply.status == 413
    assert (await reply.json())["error"]["code"] == "request_too_large"
    assert reply.headers["Connection"] == "close"

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"model": "assistant", "messages": ['
        for _ in range(200):
            yield b" " * 100

    async with (
        aiohttp.ClientSession() as client,
        client.post(
            f"{stage.url}/v1/chat/completions", data=pieces(), headers={"Content-Type": "application/json"}
        ) as late,
    ):
        assert late.status == 413
    assert not stage.replicas[0].seen


async def test_expect_continue_is_answered(make: Make) -> None:
    stage = await make()
    # This client sends nothing until it was told to.
    async with stage.client.post(
        f"{stage.url}/v1/chat/completions",
        json={"model": PUBLIC, "messages": [{"role": "user", "content": "Hi"}]},
        expect100=True,
    ) as reply:
        assert reply.status == 200
        assert (await reply.json())["model"] == PUBLIC


async def test_keys_and_bodies_are_not_logged(make: Make, written: io.StringIO) -> None:
    stage = await make()
    headers = {"Authorization": "Bearer KEY-OF-SOMEBODY"}
    for body in (
        {"model": PUBLIC, "messages": [{"role": "user", "content": "WORDS-OF-SOMEBODY"}]},
        {"model": "WORDS-OF-SOMEBODY"},
    ):
        async with stage.client.post(f"{stage.url}/v1/chat/completions", json=body, headers=headers) as reply:
            await reply.read()
    await stage.replicas[0].stop()
    await stage.chat("WORDS-OF-SOMEBODY")
    assert "replica_down" in written.getvalue()
    assert "OF-SOMEBODY" not in written.getvalue()


async def test_a_replica_that_dies_in_the_middle_ends_the_stream_as_broken(make: Make) -> None:
    stage = await make()
    stage.replicas[0].cut_after = 3
    body = {"model": PUBLIC, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with pytest.raises(aiohttp.ClientPayloadError):
        async with stage.client.post(f"{stage.url}/v1/chat/completions", json=body) as reply:
            await reply.read()
    assert stage.metric("sentinel_route_requests_total", served_model="first", outcome="broken_off") == 1


async def test_an_application_that_leaves_frees_the_replica(make: Make) -> None:
    stage = await make()
    stage.replicas[0].set_faults(hang_rate=1.0)
    asking = asyncio.create_task(stage.chat())
    await wait_until(lambda: stage.replicas[0].stats.in_flight)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    pool = stage.service.pools[0]
    await wait_until(lambda: not pool.replicas[0].in_flight)
    await wait_until(lambda: stage.metric("sentinel_route_in_flight_requests") == 0)


async def test_a_slow_reader_holds_the_replica_back(make: Make) -> None:
    stage = await make()
    written = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal written
        if request.method == "GET":
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        line = b"data: " + json.dumps({"model": marks.MODEL, "x": "y" * 10_000}).encode() + b"\n\n"
        for _ in range(10_000):
            await response.write(line)
            written += len(line)
        return response

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        stage.service.pools[0].replicas[0].url = "http://{}:{}".format(*runner.addresses[0])
        reply = await stage.client.post(f"{stage.url}/v1/chat/completions", json={"model": PUBLIC})
        await wait_until(lambda: written)
        held = -1
        while written != held:
            held = written
            await asyncio.sleep(0.5)
        # What is on its way lies in the buffers of four sockets, of 100 MB in all.
        assert 0 < held < 50_000_000
        reply.close()
    finally:
        await runner.cleanup()
