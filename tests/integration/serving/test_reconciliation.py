"""Replicas that forget, lag, refuse, lie or are away are each found, and brought back where that is possible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sentinel.clock import ManualClock
from sentinel.serving import Replica, ReplicaReport, ReplicaState, Serving, announceable
from sentinel.serving_assembly import make_serving
from sentinel.serving_desired import DesiredState, Probe, WantedAdapter
from sentinel.serving_replica import ReplicaOptions
from sentinel.settings import Settings
from tests.integration.serving.scripted_replica import BASE, ScriptedReplica, answer_of

QUESTIONS = ("one", "two")


class Recorded:
    """Metrics that are kept."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str, ReplicaState]] = []
        self.loads: list[float] = []

    def replica_state(self, served_model: str, replica: str, state: ReplicaState) -> None:
        self.states.append((served_model, replica, state))

    def adapter_loaded(self, served_model: str, replica: str, seconds: float) -> None:
        self.loads.append(seconds)


def wanted(name: str, *, differs: bool = True) -> WantedAdapter:
    probes = tuple(Probe(question, answer_of(name, question), differs) for question in QUESTIONS)
    return WantedAdapter(name, Path("/adapters") / name, probes)


DESIRED = DesiredState(served_model="chat", adapters=(wanted("new"), wanted("old")))


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ScriptedReplica, ScriptedReplica]]:
    async with ScriptedReplica() as one, ScriptedReplica() as other:
        yield one, other


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def metrics() -> Recorded:
    return Recorded()


@pytest.fixture
async def serving(
    pair: tuple[ScriptedReplica, ScriptedReplica], clock: ManualClock, metrics: Recorded
) -> AsyncIterator[Serving]:
    made = Serving(
        "chat",
        [Replica(server.url) for server in pair],
        options=ReplicaOptions(connect_timeout=2.0, timeout=2.0, load_timeout=2.0),
        clock=clock,
        metrics=metrics,
    )
    yield made
    await made.aclose()


def states(reports: tuple[ReplicaReport, ...]) -> list[str]:
    return [report.state.value for report in reports]


async def test_empty_replicas_are_brought_to_the_desired_state_and_left_alone_then(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving, metrics: Recorded
) -> None:
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["ok", "ok"]
    assert [report.loaded for report in reports] == [("new", "old")] * 2
    assert all(report.proven == {"new", "old"} for report in reports)
    assert announceable(reports, "new")
    assert len(metrics.loads) == 4
    assert metrics.states == [("chat", server.url, ReplicaState.OK) for server in pair]
    assert serving.reports == {server.url: report for server, report in zip(pair, reports, strict=True)}
    before = len(pair[0].calls)
    (again, _) = await serving.reconcile(DESIRED)
    assert again.state is ReplicaState.OK
    assert again.loaded == ()
    assert len(pair[0].calls) == before


async def test_proofs_are_made_again_when_they_are_old(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving, clock: ManualClock
) -> None:
    await serving.reconcile(DESIRED)
    before = len(pair[0].calls)
    clock.advance(59)
    await serving.reconcile(DESIRED)
    assert len(pair[0].calls) == before
    clock.advance(2)
    await serving.reconcile(DESIRED)
    # Two adapters, two questions, each asked of the adapter and of the base.
    assert len(pair[0].calls) == before + 8


async def test_a_restarted_replica_that_knows_no_adapter(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving
) -> None:
    await serving.reconcile(DESIRED)
    pair[1].restart()
    one, other = await serving.reconcile(DESIRED)
    assert one.loaded == ()
    assert other.loaded == ("new", "old")
    assert other.state is ReplicaState.OK
    assert other.proven == {"new", "old"}


async def test_a_replica_that_lags(pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving) -> None:
    pair[0].unlisted = True
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["lagging", "ok"]
    assert "new" in reports[0].detail
    assert not announceable(reports, "new")
    pair[0].catch_up()
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["ok", "ok"]
    assert announceable(reports, "new")


async def test_a_replica_that_refuses_is_stale(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving
) -> None:
    pair[0].refuses = "rank 64 is above max_lora_rank 16"
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["stale", "ok"]
    assert "rank 64" in reports[0].detail
    assert not announceable(reports, "new")
    pair[0].refuses = None
    assert states(await serving.reconcile(DESIRED)) == ["ok", "ok"]


async def test_a_replica_that_is_down_and_comes_back_empty(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving
) -> None:
    await serving.reconcile(DESIRED)
    await pair[0].stop()
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["down", "ok"]
    assert reports[0].proven == frozenset()
    assert announceable(reports, "new")
    await pair[1].stop()
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["down", "down"]
    assert not announceable(reports, "new")
    await pair[0].come_back()
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["ok", "down"]
    assert reports[0].loaded == ("new", "old")


@pytest.mark.parametrize(
    "fault",
    [{"hang_rate": 1}, {"garbage_rate": 1}, {"wrong_shape_rate": 1}, {"error_rate": 1}, {"reset_rate": 1}],
)
async def test_a_replica_without_proper_answers_is_down_and_delays_nobody(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving, fault: dict[str, float]
) -> None:
    pair[0].loaded = {"new": "new", "old": "old"}
    pair[0].set_faults(**fault)
    # Its own time-outs are 2 s each.
    reports = await asyncio.wait_for(serving.reconcile(DESIRED), 60)
    assert states(reports) == ["down", "ok"]
    assert reports[0].proven == frozenset()
    pair[0].clear_faults()
    assert states(await serving.reconcile(DESIRED)) == ["ok", "ok"]


@pytest.mark.parametrize("weights", ["old", "another", BASE])
async def test_a_replica_that_answers_with_other_weights(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving, clock: ManualClock, weights: str
) -> None:
    await serving.reconcile(DESIRED)
    pair[0].lies["new"] = weights
    clock.advance(61)
    reports = await serving.reconcile(DESIRED)
    assert states(reports) == ["wrong", "ok"]
    assert reports[0].proven == {"old"}
    assert "new" in reports[0].detail
    assert not announceable(reports, "new")
    assert pair[0].calls.count(("load_lora_adapter", "new")) == 2
    # It is not loaded over and over: that would only make its requests fail.
    assert states(await serving.reconcile(DESIRED)) == ["wrong", "ok"]
    assert pair[0].calls.count(("load_lora_adapter", "new")) == 2
    pair[0].lies.clear()
    assert states(await serving.reconcile(DESIRED)) == ["ok", "ok"]


async def test_other_weights_under_a_known_name_are_replaced(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving
) -> None:
    pair[0].loaded = {"new": "old"}
    (report, _) = await serving.reconcile(DESIRED)
    assert report.state is ReplicaState.OK
    assert pair[0].loaded == {"new": "new", "old": "old"}


async def test_an_adapter_that_answers_as_the_base_is_right_only_where_that_was_recorded(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving
) -> None:
    for server in pair:
        server.lies["plain"] = BASE
    probes = tuple(Probe(question, answer_of(BASE, question), False) for question in QUESTIONS)
    same = WantedAdapter("plain", Path("/adapters/plain"), probes)
    desired = DesiredState(served_model="chat", adapters=(same,))
    assert states(await serving.reconcile(desired)) == ["ok", "ok"]


async def test_an_adapter_without_recorded_answers_is_served_but_never_proven(serving: Serving) -> None:
    bare = WantedAdapter("bare", Path("/adapters/bare"))
    reports = await serving.reconcile(DesiredState(served_model="chat", adapters=(bare,)))
    assert states(reports) == ["lagging", "lagging"]
    assert reports[0].loaded == ("bare",)
    assert not announceable(reports, "bare")


async def test_what_is_retired_goes_after_its_grace_and_what_is_not_ours_stays(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving, clock: ManualClock
) -> None:
    pair[0].loaded = {"retired": "retired", "somebody-s": "somebody-s"}
    desired = DesiredState(
        served_model="chat", adapters=DESIRED.adapters, retired=frozenset({"retired", "new", BASE})
    )
    (first, _) = await serving.reconcile(desired)
    assert first.unloaded == ()
    clock.advance(29)
    assert (await serving.reconcile(desired))[0].unloaded == ()
    clock.advance(1)
    (last, _) = await serving.reconcile(desired)
    assert last.unloaded == ("retired",)
    assert set(pair[0].loaded) == {"somebody-s", "new", "old"}
    assert last.state is ReplicaState.OK


async def test_the_admin_token_goes_along(pair: tuple[ScriptedReplica, ScriptedReplica]) -> None:
    pair[0].token = "secret"
    for token, state in (("secret", "ok"), ("guess", "stale"), (None, "stale")):
        pair[0].restart()
        serving = Serving("chat", [Replica(pair[0].url)], admin_token=token)
        assert states(await serving.reconcile(DESIRED)) == [state]
        await serving.aclose()


async def test_a_replica_on_another_host_gets_its_own_path(
    pair: tuple[ScriptedReplica, ScriptedReplica],
) -> None:
    assert Replica("x").path_of(DESIRED.adapters[0]) == "/adapters/new"
    assert Replica("x", "/mnt/there").path_of(DESIRED.adapters[0]) == "/mnt/there/new"
    serving = Serving("chat", [Replica(pair[0].url + "/v1", "/mnt/there")])
    assert states(await serving.reconcile(DESIRED)) == ["ok"]
    await serving.aclose()


class Told(ScriptedReplica):
    """Keeps the paths that it was told to load from."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def _load(self, name: str, path: str) -> tuple[int, bytes]:
        self.paths.append(path)
        return super()._load(name, path)


async def test_settings_give_each_replica_its_own_path() -> None:
    async with Told() as one, Told() as other:
        served = {
            "public_name": "c",
            "base": "b",
            "replicas": [one.url, other.url],
            "remote_prefix": ["/mnt/one", "/mnt/other"],
        }
        serving = make_serving(Settings.model_validate({"served_models": {"chat": served}}), "chat")
        assert states(await serving.reconcile(DESIRED)) == ["ok", "ok"]
        await serving.aclose()
        assert one.paths == ["/mnt/one/new", "/mnt/one/old"]
        assert other.paths == ["/mnt/other/new", "/mnt/other/old"]


async def test_it_goes_on_until_it_is_stopped(
    pair: tuple[ScriptedReplica, ScriptedReplica], serving: Serving, metrics: Recorded
) -> None:
    stopping = asyncio.Event()

    async def read() -> DesiredState:
        if len(metrics.states) >= 6:
            stopping.set()
        return DESIRED

    await asyncio.wait_for(serving.keep(read, interval_s=0.01, stopping=stopping), 60)
    assert len(metrics.states) == 8
