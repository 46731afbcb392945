"""Before a replica ever listed its models, the name of its base is a guess: a wrong one must fail nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from producers.route import replicas as watched
from producers.route.headers import ADAPTER_HEADER
from sentinel.embedded.scripted_model import MODEL, ScriptedModel
from tests.integration.route.conftest import ADAPTER, PUBLIC, SERVED, Make, Stage
from tests.support.waiting import wait_until

WEIGHTS = "org/weights"


class SlowLister(ScriptedModel):
    """A busy engine: it answers calls at once and lists its models late. ``closed`` is one that lists nothing."""

    def __init__(self) -> None:
        super().__init__(obeys="safe")
        self.strict = True
        self.listed = asyncio.Event()
        self.closed = False
        self.lists = 0

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            self.lists += 1
            if self.closed:
                return web.Response(status=401)
            await self.listed.wait()
        return await super()._handle(request)


@pytest.fixture
async def slow(stack: AsyncExitStack) -> SlowLister:
    server = await stack.enter_async_context(SlowLister())
    stack.callback(server.listed.set)
    return server


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose looks are meant to find no answer in time."""
    monkeypatch.setattr(watched, "_CHECK_TIMEOUT_S", 0.3)


async def started(make: Make, *servers: ScriptedModel) -> Stage:
    """A route that looked once and will not look again by itself, with the weights' name configured."""
    urls = [server.url for server in servers]
    served = f"{{{SERVED}: {{public_name: {PUBLIC}, base: {WEIGHTS}, replicas: {urls}}}}}"
    stage: Stage = await make(list(servers), served_models=served, **{"route.replica_check_s": "600"})
    # The task looks once more at its start.
    slow = [server for server in servers if isinstance(server, SlowLister)]
    await wait_until(lambda: all(server.lists >= 2 for server in slow))
    await asyncio.sleep(0.5)  # longer than it waits for an answer
    return stage


async def test_the_base_is_found_when_its_guessed_name_is_refused(
    make: Make, slow: SlowLister, short_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await started(make, slow)
    assert stage.service.pools[0].replicas[0].cards is None
    slow.listed.set()
    monkeypatch.setattr(watched, "_CHECK_TIMEOUT_S", 30.0)
    asked = slow.lists
    replies = await asyncio.gather(*(stage.chat() for _ in range(10)))
    assert [reply.status for reply in replies] == [200] * 10
    assert {reply.headers[ADAPTER_HEADER] for reply in replies} == {"base"}
    assert {(await reply.json())["model"] for reply in replies} == {PUBLIC}
    # Those that were refused at the same time shared one look.
    assert slow.lists - asked <= 2
    seen = len(slow.seen)
    assert (await stage.chat()).status == 200
    assert [request.body["model"] for request in list(slow.seen)[seen:]] == [MODEL]
    assert stage.service.pools[0].replicas[0].in_flight == 0


async def test_another_replicas_list_tells_the_name(make: Make, slow: SlowLister) -> None:
    slow.closed = True
    async with ScriptedModel(obeys="safe") as open_one:
        open_one.strict = True
        stage = await started(make, slow, open_one)
        replies = [await stage.chat() for _ in range(6)]
        assert [reply.status for reply in replies] == [200] * 6
        assert {request.body["model"] for request in slow.seen} == {MODEL}
        assert open_one.seen
        assert slow.seen


async def test_a_replica_that_never_lists_answers_for_itself(
    make: Make, slow: SlowLister, short_looks: None
) -> None:
    stage = await started(make, slow)
    asked = slow.lists
    for _ in range(20):
        reply = await stage.chat()
        assert reply.status == 404
        assert WEIGHTS in (await reply.json())["error"]["message"]
    # One of them waited for a look that timed out; the others did not.
    assert slow.lists - asked == 1
    assert stage.service.pools[0].replicas[0].in_flight == 0


class Counted(watched.Replica):
    """Keeps every number of requests under way that it had."""

    def __init__(self, url: str, base: str) -> None:
        self.numbers: list[int] = []
        super().__init__(url, base)

    @property
    def in_flight(self) -> int:
        return self.numbers[-1]

    @in_flight.setter
    def in_flight(self, number: int) -> None:
        self.numbers.append(number)


class Forgetful(ScriptedModel):
    """Lists an adapter that it does not have."""

    def models(self) -> Mapping[str, str | None]:
        return {MODEL: None, ADAPTER: MODEL}

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        return 404, b'{"error": {"message": "no such model", "code": "model_not_found"}}'


async def test_a_refusal_that_is_handed_on_counts_until_it_was(make: Make) -> None:
    async with Forgetful(obeys="safe") as server:
        stage = await make([server], **{"route.replica_check_s": "600"})
        (pool,) = stage.service.pools
        counted = Counted(server.url, MODEL)
        counted.cards = pool.replicas[0].cards
        pool.replicas = (counted,)
        reply = await stage.chat(model=ADAPTER)
        assert (reply.status, reply.headers[ADAPTER_HEADER]) == (404, ADAPTER)
        assert counted.numbers == [0, 1, 0]
