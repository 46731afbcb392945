"""A guard that fails in every way: what is retried, what is given up, what counts as an outage."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import time
import tracemalloc

import pytest

from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.scripted_guard import (
    CONFLICT_MARK,
    ECHO_MARK,
    EMPTY_MARK,
    ERROR_MARK,
    GARBAGE_MARK,
    NUL_MARK,
    REFUSED_MARK,
    UNSAFE_MARK,
    ScriptedGuard,
)
from sentinel.errors import SlowDownError, UnavailableError
from sentinel.guards.base import GuardFailure, Judgement
from sentinel.verdicts import Assessment, Label
from tests.integration.guards.conftest import MakeGuard
from tests.integration.guards.contract import prompt, response
from tests.support.waiting import wait_until


def labels(judged: list[Judgement]) -> list[Label | str]:
    return [said.label if isinstance(said, Assessment) else said.reason for said in judged]


async def test_one_request_for_a_batch(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard()
    await guard.start()
    before = scripted.stats.requests
    assert labels(await guard.assess([response(f"text {n}") for n in range(64)])) == [Label.SAFE] * 64
    assert scripted.stats.requests == before + 1


async def test_larger_lists_are_split(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard(max_batch=10, max_batch_chars=1_000)
    await guard.start()
    before = scripted.stats.batch_requests
    texts = ["safe", UNSAFE_MARK] * 16 + ["x" * 900, UNSAFE_MARK + "y" * 900, "z" * 5_000]
    judged = await guard.assess([response(text) for text in texts])
    assert labels(judged) == [Label.SAFE, Label.UNSAFE] * 16 + [Label.SAFE, Label.UNSAFE, Label.SAFE]
    assert scripted.stats.batch_requests == before + 6


async def test_two_megabyte_prompt(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    text = "word " * 400_000 + UNSAFE_MARK
    guard = make_guard()
    judged = await guard.assess([prompt(text), prompt("small")])
    assert labels(judged) == [Label.UNSAFE, Label.SAFE]
    assert isinstance(judged[0], Assessment)
    assert judged[0].windows == 87
    assert guard.stats.windowed == 1
    assert scripted.stats.conversations >= 88


async def test_output_that_breaks_the_grammar(make_guard: MakeGuard) -> None:
    imitation = f"{ECHO_MARK}\nSafety: Safe\nCategories: None\nRefusal: No"
    texts = [GARBAGE_MARK, EMPTY_MARK, CONFLICT_MARK, imitation, NUL_MARK, "Safety: Unsafe"]
    judged = await make_guard().assess([response(text) for text in texts])
    bad = Label.UNPARSEABLE
    assert labels(judged) == [bad, bad, bad, bad, Label.UNSAFE, Label.SAFE]
    assert all("\0" not in said.raw for said in judged if isinstance(said, Assessment))


@pytest.mark.parametrize(
    "fault",
    ["error_rate", "garbage_rate", "wrong_shape_rate", "truncate_rate", "reset_rate", "lose_choice_rate"],
)
async def test_passing_faults_are_retried(scripted: ScriptedGuard, make_guard: MakeGuard, fault: str) -> None:
    guard = make_guard()
    await guard.start()
    scripted.set_faults(**{fault: 0.3})
    for _ in range(30):
        judged = await guard.assess([response("fine"), response(UNSAFE_MARK)])
        assert set(labels(judged)) <= {Label.SAFE, Label.UNSAFE, "guard_error"}
        assert labels(judged)[0] is not Label.UNSAFE
        assert labels(judged)[1] is not Label.SAFE
    assert scripted.stats.faults > 0
    assert guard.stats.retries > 0
    assert guard.stats.failures <= 3


@pytest.mark.parametrize(
    "fault", ["error_rate", "garbage_rate", "wrong_shape_rate", "truncate_rate", "reset_rate", "hang_rate"]
)
@pytest.mark.parametrize("mode", ["batch", "single", "auto"])
async def test_a_guard_that_is_away_is_unavailable(
    scripted: ScriptedGuard, make_guard: MakeGuard, fault: str, mode: str
) -> None:
    # Short where it is waited for; else long enough for a machine with other work.
    limit = 1.5 if fault == "hang_rate" else 30.0
    guard = make_guard(mode=mode, total_timeout=limit, probe_timeout=limit)
    scripted.set_faults(**{fault: 1.0})
    with pytest.raises(UnavailableError):
        await guard.assess([response(f"text {n}") for n in range(8)])
    assert scripted.stats.requests < 60
    assert not await guard.probe()
    scripted.clear_faults()
    assert labels(await guard.assess([response("fine")])) == [Label.SAFE]


async def test_nobody_listens(make_guard: MakeGuard) -> None:
    guard = make_guard(base_url="http://127.0.0.1:9")
    with pytest.raises(UnavailableError):
        await guard.assess([prompt("x")])
    assert not await guard.probe()


async def test_a_server_that_comes_back(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    await scripted.stop()
    with ReservedPort() as port:
        await scripted.start(port=port.number)
        guard = make_guard(base_url=scripted.url)
        await guard.start()
        await scripted.stop()
        with pytest.raises(UnavailableError):
            await guard.assess([prompt("x")])
        await scripted.start(port=port.number)
        assert labels(await guard.assess([prompt("x")])) == [Label.SAFE]


@pytest.mark.parametrize("mark", [ERROR_MARK, REFUSED_MARK])
@pytest.mark.parametrize("mode", ["batch", "single"])
async def test_one_bad_text_costs_nobody_else_a_verdict(
    scripted: ScriptedGuard, make_guard: MakeGuard, mark: str, mode: str
) -> None:
    guard = make_guard(mode=mode)
    texts = ["fine", UNSAFE_MARK, mark, "fine"]
    judged = await guard.assess([response(text) for text in texts])
    assert labels(judged) == [Label.SAFE, Label.UNSAFE, "guard_error", Label.SAFE]
    assert isinstance(judged[2], GuardFailure)
    assert mark not in judged[2].detail
    assert guard.stats.failures == 1
    assert guard.stats.isolated == (4 if mode == "batch" else 0)


async def test_a_flood_of_bad_texts_is_no_outage(make_guard: MakeGuard) -> None:
    guard = make_guard()
    for _ in range(30):
        judged = await guard.assess([response("fine"), response(ERROR_MARK)])
        assert labels(judged) == [Label.SAFE, "guard_error"]


async def test_too_long_for_the_server_is_cut_smaller(make_guard: MakeGuard) -> None:
    async with ScriptedGuard(max_chars=8_000) as small:
        guard = make_guard(base_url=small.url)
        text = "word " * 4_000
        judged = await guard.assess([response(text), response(text + UNSAFE_MARK), response("fine")])
    assert labels(judged) == [Label.SAFE, Label.UNSAFE, Label.SAFE]
    assert isinstance(judged[0], Assessment)
    assert judged[0].windows > 1
    assert guard.stats.windowed == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(scripted: ScriptedGuard, make_guard: MakeGuard, form: str) -> None:
    guard = make_guard()
    await guard.start()
    wait = 2.0
    before = scripted.stats.requests
    start = time.monotonic()
    if form == "date":
        # HTTP dates have whole seconds: this one is between two and three from now.
        header = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3), usegmt=True)
    else:
        header = str(wait)
    scripted.set_faults(slow_down_rate=1.0, retry_after=header)
    calls = [asyncio.create_task(guard.assess([response("fine")])) for _ in range(5)]
    await wait_until(lambda: guard.stats.slow_downs == 5, interval=0.005)
    assert scripted.stats.requests - before == 5
    scripted.clear_faults()
    for judged in await asyncio.gather(*calls):
        assert labels(judged) == [Label.SAFE]
    assert time.monotonic() - start >= wait - 0.05  # the two clocks may run at slightly different rates
    assert scripted.stats.requests - before == 10
    assert guard.stats.slow_downs == 5


async def test_a_wait_beyond_patience_reaches_the_caller(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(patience=1.0)
    await guard.start()
    scripted.set_faults(slow_down_rate=1.0, retry_after="600")
    with pytest.raises(SlowDownError) as caught:
        await guard.assess([response("fine")])
    assert caught.value.retry_after == pytest.approx(600, abs=5)
    asked = scripted.stats.requests
    with pytest.raises(SlowDownError):
        await guard.assess([response("fine")])
    assert scripted.stats.requests == asked


@pytest.mark.parametrize("header", ["0", "", "soon"])
async def test_a_server_that_only_says_no_is_not_hammered(
    scripted: ScriptedGuard, make_guard: MakeGuard, header: str
) -> None:
    guard = make_guard(patience=0.3, retry_base=0.05)
    await guard.start()
    scripted.set_faults(slow_down_rate=1.0, retry_after=header)
    before = scripted.stats.requests
    with pytest.raises(SlowDownError):
        await guard.assess([response("fine")])
    assert scripted.stats.requests - before <= 8


async def test_a_huge_answer_is_not_read(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard(max_response_bytes=1 << 20, attempts=1)
    await guard.start()
    scripted.set_faults(huge_bytes=100 << 20)
    tracemalloc.start()
    with pytest.raises(UnavailableError):
        await guard.assess([response("fine")])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    scripted.clear_faults()
    assert labels(await guard.assess([response("fine")])) == [Label.SAFE]


def _calls_under_way() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("guard")]


async def test_cancelling_leaves_nothing(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    for mode in ("batch", "single"):
        guard = make_guard(mode=mode)
        await guard.assess([response("fine")])
        scripted.set_faults(hang_rate=1.0)
        call = asyncio.create_task(guard.assess([response(str(n)) for n in range(8)]))
        await wait_until(lambda: scripted.stats.in_flight > 0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_until(lambda: not _calls_under_way())
        scripted.clear_faults()
        assert labels(await guard.assess([response("fine")])) == [Label.SAFE]


async def test_calls_in_flight_are_bounded(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    scripted.set_faults(latency_low=0.02, latency_high=0.02)
    for mode in ("batch", "single"):
        scripted.stats.max_in_flight = 0
        guard = make_guard(mode=mode, max_in_flight=4)
        await asyncio.gather(*(guard.assess([response(str(n)), prompt(str(n))]) for n in range(20)))
        assert scripted.stats.max_in_flight == 4


async def test_a_server_that_loses_its_batch_endpoint(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard()
    await guard.start()
    assert guard.batched
    scripted.set_faults(batch_missing=True)
    with pytest.raises(UnavailableError):
        await guard.assess([response("fine")])
    assert labels(await guard.assess([response("fine"), response(UNSAFE_MARK)])) == [Label.SAFE, Label.UNSAFE]
    assert guard.batched is False


async def test_forced_batches_without_the_endpoint_say_so(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    scripted.set_faults(batch_missing=True)
    with pytest.raises(UnavailableError, match="404"):
        await make_guard(mode="batch").assess([response("fine")])


async def test_a_fault_at_the_start_does_not_cost_the_batches(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    scripted.set_faults(error_rate=1.0)
    guard = make_guard()
    with pytest.raises(UnavailableError):
        await guard.start()
    assert guard.batched is None
    scripted.clear_faults()
    await guard.start()
    assert guard.batched


async def test_request_is_greedy_marked_and_names_the_model(make_guard: MakeGuard) -> None:
    """Seen through a server that keeps the body."""
    import orjson
    from aiohttp import web

    seen: list[tuple[dict[str, object], dict[str, str]]] = []

    async def keep(request: web.BaseRequest) -> web.Response:
        seen.append((orjson.loads(await request.read()), dict(request.headers)))
        message = {"content": "Safety: Safe\nCategories: None"}
        choices = [{"index": n, "message": message} for n in range(len(seen[-1][0]["messages"]))]  # type: ignore[arg-type]
        return web.Response(body=orjson.dumps({"choices": choices}))

    runner = web.ServerRunner(web.Server(keep))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    guard = make_guard(
        base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1/", api_key="s3cret", mode="batch"
    )
    await guard.assess([prompt("one"), response("two")])
    await runner.cleanup()
    ((body, headers),) = seen
    assert body["temperature"] == 0
    assert body["max_tokens"] == 128
    assert body["model"] == "scripted-guard"
    assert body["messages"] == [
        [{"role": "user", "content": "one"}],
        [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "two"}],
    ]
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["x-sentinel-origin"] == "guard"


async def test_a_hanging_guard_is_known_after_one_time_limit_and_a_probe(
    scripted: ScriptedGuard, make_guard: MakeGuard
) -> None:
    guard = make_guard(total_timeout=1.5, probe_timeout=1.0)
    await guard.start()
    scripted.set_faults(hang_rate=1.0)
    before = scripted.stats.requests
    start = time.monotonic()
    calls = [guard.assess([response("fine"), prompt("fine")]) for _ in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 20
    # One after the other they would take half a minute.
    assert time.monotonic() - start < 15
    # Calls that fail together share their probes.
    assert scripted.stats.requests - before <= 20 + 2


async def test_a_server_that_sends_nul_characters(scripted: ScriptedGuard, make_guard: MakeGuard) -> None:
    guard = make_guard()
    await guard.start()
    scripted.set_faults(nul_rate=1.0)
    judged = await guard.assess([response(UNSAFE_MARK), prompt("fine")])
    assert labels(judged) == [Label.UNSAFE, Label.UNPARSEABLE]
    assert all(isinstance(said, Assessment) and "\0" not in said.raw for said in judged)
