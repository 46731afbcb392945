"""An adapter enters service on every replica that is up, or not at all, and leaves it again."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from sentinel.errors import CommandError
from sentinel.serving import Serving
from sentinel.serving_assembly import make_serving
from sentinel.serving_desired import desired_state
from sentinel.settings import Settings
from sentinel.states import AdapterState
from sentinel.store.admission import PromotionRefusedError, Refusal, decide, freeze, unfreeze
from sentinel.store.connections import Connect
from tests.integration.promotion.stage import MODEL, Stage, as_json, settings_of
from tests.integration.serving.scripted_replica import BASE, ScriptedReplica
from trainer.promote import PromotionFailedError, promote, run_promotion
from trainer.rollback import rollback, run_rollback

ROOT = Path(__file__).resolve().parents[3]
Pair = tuple[ScriptedReplica, ScriptedReplica]


async def test_an_adapter_is_loaded_proven_announced_and_watched(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    await stage.adapter("a")
    done = await promote(connect, settings, MODEL, "a", actor="test")
    assert (done.generation, done.adapter, done.previous_adapter, done.action) == (1, "a", None, "promote")
    assert [replica.loaded for replica in replicas] == [{"a": "a"}, {"a": "a"}]
    assert await stage.fetch("SELECT old_state, new_state FROM adapter_moves ORDER BY id") == [
        (None, "candidate"),
        ("candidate", "loading"),
        ("loading", "probing"),
        ("probing", "promoted"),
    ]
    ((topic, key, payload),) = await stage.fetch("SELECT topic, key, payload FROM outbox")
    document = orjson.loads(payload)
    assert (topic, key) == ("sentinel.promotions", MODEL.encode())
    assert (document["generation"], document["adapter"], document["action"]) == (1, "a", "promote")
    ((watched, limit, alpha, state),) = await stage.fetch(
        "SELECT adapter, limit_rate, alpha, state FROM promotion_watches"
    )
    # Nothing is known of the base's rate: no rate of the adapter is evidence of a worse one.
    assert (watched, limit, alpha, state) == ("a", 1.0, 0.01, "watching")
    assert ("test", "promote", "a") in await stage.fetch("SELECT actor, action, subject FROM audit_log")
    # Asked again, nothing is done again.
    assert await promote(connect, settings, MODEL, "a", actor="test") == done
    assert len(await stage.history()) == 1


async def test_what_replicas_read_is_a_verified_copy_for_their_group(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    source = await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    ((path,),) = await stage.fetch("SELECT path FROM adapters")
    place = settings.adapters.store / "a"
    assert path == str(place)
    assert place.stat().st_mode & 0o777 == 0o750
    files = sorted(place.iterdir())
    assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}
    assert (place / "adapter_model.safetensors").read_bytes() == (
        source / "adapter_model.safetensors"
    ).read_bytes()


async def test_weights_that_changed_since_they_were_measured_are_not_loaded(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    source = await stage.adapter("a")
    (source / "adapter_model.safetensors").write_bytes(b"others")
    with pytest.raises(CommandError, match="are not those of a"):
        await promote(connect, settings, MODEL, "a", actor="test")
    assert await stage.states() == {"a": "candidate"}
    assert [file.name for file in settings.adapters.store.iterdir()] == [".lock"]
    assert replicas[0].loaded == {}


async def test_a_second_promotion_supersedes_the_first_which_stays_loaded(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")
    done = await promote(connect, settings, MODEL, "b", actor="test")
    assert (done.generation, done.previous_adapter) == (2, "a")
    assert await stage.states() == {"a": "superseded", "b": "promoted"}
    assert await stage.fetch("SELECT adapter, state FROM promotion_watches ORDER BY started_at") == [
        ("a", "ended"),
        ("b", "watching"),
    ]
    serving = make_serving(settings, MODEL)
    await _reconcile(serving, connect)
    assert set(replicas[0].loaded) == {"a", "b"}
    await stage.fetch("UPDATE promotion_watches SET state = 'proven' WHERE adapter = 'b'")
    await _reconcile(serving, connect)
    await serving.aclose()
    assert [set(replica.loaded) for replica in replicas] == [{"b"}, {"b"}]


async def _reconcile(serving: Serving, connect: Connect) -> None:
    async with connect() as conn:
        desired = await desired_state(conn, MODEL)
    await serving.reconcile(desired)


async def test_a_replica_that_is_down_does_not_keep_the_others_waiting(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    await stage.adapter("a")
    await replicas[1].stop()
    done = await promote(connect, settings, MODEL, "a", actor="test")
    assert done.adapter == "a"
    assert replicas[0].loaded == {"a": "a"}
    await replicas[1].come_back()
    serving = make_serving(settings, MODEL)
    await _reconcile(serving, connect)
    await serving.aclose()
    assert replicas[1].loaded == {"a": "a"}


@pytest.mark.parametrize("fault", ["lies", "refuses", "unlisted", "all_down"])
async def test_without_proof_on_every_live_replica_the_adapter_fails_and_the_old_one_stays(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair, fault: str
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")
    if fault == "lies":
        replicas[1].lies["b"] = BASE
    elif fault == "refuses":
        replicas[1].refuses = "rank 64 is above max_lora_rank 16"
    elif fault == "unlisted":
        replicas[1].unlisted = True
    else:
        for replica in replicas:
            await replica.stop()
    hasty = settings_of(stage.database_url, settings.adapters.store, replicas, probe_timeout_s=0.6)
    with pytest.raises(PromotionFailedError, match=r"no proof on every replica within 0\.6 s"):
        await promote(connect, hasty, MODEL, "b", actor="test")
    assert await stage.states() == {"a": "promoted", "b": "failed"}
    assert [row[2] for row in await stage.history()] == ["a"]
    with pytest.raises(PromotionRefusedError, match="failed"):
        await promote(connect, settings, MODEL, "b", actor="test")


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(None, Refusal.NO_REPORT), ("fail", Refusal.GATE), ("inconclusive", Refusal.GATE)],
)
async def test_without_a_passing_report_nothing_is_loaded(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair, verdict: str | None, reason: Refusal
) -> None:
    await stage.adapter("a", verdict=verdict)
    with pytest.raises(PromotionRefusedError) as refused:
        await promote(connect, settings, MODEL, "a", actor="test")
    assert refused.value.reason is reason
    assert await stage.states() == {"a": "candidate"}
    assert replicas[0].loaded == {}


async def test_a_later_report_that_fails_takes_the_earlier_pass_back(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    await stage.adapter("a")
    await stage.report("a", verdict="fail")
    with pytest.raises(PromotionRefusedError) as refused:
        await promote(connect, settings, MODEL, "a", actor="test")
    assert refused.value.reason is Refusal.GATE


async def test_an_adapter_measured_against_another_incumbent_is_refused(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    await stage.adapter("a")
    await stage.adapter("late")
    await promote(connect, settings, MODEL, "a", actor="test")
    with pytest.raises(PromotionRefusedError, match="evaluate it again") as refused:
        await promote(connect, settings, MODEL, "late", actor="test")
    assert refused.value.reason is Refusal.INCUMBENT
    assert await stage.states() == {"a": "promoted", "late": "candidate"}


async def test_of_two_that_race_one_enters_and_the_other_fails(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    await stage.adapter("a")
    await stage.adapter("b")
    results = await asyncio.gather(
        *(promote(connect, settings, MODEL, name, actor="test") for name in ("a", "b")),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, PromotionRefusedError)]
    assert [one.reason for one in refused] == [Refusal.INCUMBENT]
    assert sorted((await stage.states()).values()) == ["failed", "promoted"]
    assert len(await stage.history()) == 1


async def test_two_processes_that_promote_the_same_adapter_promote_it_once(
    stage: Stage, settings: Settings, connect: Connect
) -> None:
    await stage.adapter("a")
    first, second = await asyncio.gather(
        *(promote(connect, settings, MODEL, "a", actor="test") for _ in range(2))
    )
    assert first == second
    assert len(await stage.history()) == 1


@pytest.mark.parametrize("scope", [MODEL, "*"])
async def test_a_freeze_stops_promotions_and_not_rollbacks(
    stage: Stage, settings: Settings, connect: Connect, scope: str
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")
    async with connect() as conn:
        assert await freeze(conn, scope, actor="ann", reason="holidays")
        assert not await freeze(conn, scope, actor="bob")
    with pytest.raises(PromotionRefusedError, match=r"frozen by ann \(holidays\)"):
        await promote(connect, settings, MODEL, "b", actor="test")
    change = await rollback(connect, settings, MODEL, actor="test", reason="by hand")
    assert change is not None
    assert change.adapter is None
    async with connect() as conn:
        assert await unfreeze(conn, scope, actor="ann")
        assert not await unfreeze(conn, scope, actor="ann")
    log = await stage.fetch("SELECT actor, action, subject FROM audit_log WHERE action LIKE '%freeze'")
    assert log == [("ann", "freeze", scope), ("ann", "unfreeze", scope)]


async def test_in_manual_mode_two_different_persons_let_an_adapter_in(
    stage: Stage, connect: Connect, replicas: Pair
) -> None:
    settings = settings_of(stage.database_url, stage.folder / "store", replicas, mode="manual", approvals=2)
    await stage.adapter("a")
    for persons in (["ann"], ["ann"]):
        with pytest.raises(PromotionRefusedError, match="of 2 approvals"):
            await promote(connect, settings, MODEL, "a", actor="test")
        assert await stage.states() == {"a": "awaiting_approval"}
        async with connect() as conn:
            for person in persons:
                assert await decide(conn, "a", actor=person, decision="approve") == 1
    assert replicas[0].loaded == {}
    async with connect() as conn:
        assert await decide(conn, "a", actor="bob", decision="approve") == 2
        with pytest.raises(CommandError, match="has said 'approve'"):
            await decide(conn, "a", actor="bob", decision="reject")
    assert (await promote(connect, settings, MODEL, "a", actor="test")).adapter == "a"


async def test_a_rejection_ends_it_wherever_it_is(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    await stage.adapter("a", state=AdapterState.AWAITING_APPROVAL)
    async with connect() as conn:
        await decide(conn, "a", actor="ann", decision="reject", comment="no")
    assert await stage.states() == {"a": "rejected"}

    await stage.adapter("b")

    class Stop(BaseException):
        pass

    def stop(step: str) -> None:
        if step == "probing":
            raise Stop

    with pytest.raises(Stop):
        await promote(connect, settings, MODEL, "b", actor="test", passed=stop)
    async with connect() as conn:
        await decide(conn, "b", actor="ann", decision="reject")
    with pytest.raises(PromotionRefusedError, match="ann rejected b"):
        await promote(connect, settings, MODEL, "b", actor="test")
    assert (await stage.states())["b"] == "failed"
    serving = make_serving(settings, MODEL)
    await _reconcile(serving, connect)
    await serving.aclose()
    assert replicas[0].loaded == {}


async def test_rollback_goes_back_one_adapter_at_a_time_to_the_base(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")
    await promote(connect, settings, MODEL, "b", actor="test")
    # The predecessor was unloaded meanwhile: it is loaded before it goes back into service.
    for replica in replicas:
        replica.loaded.pop("a")
    first = await rollback(connect, settings, MODEL, actor="test", reason="worse")
    assert first is not None
    assert (first.generation, first.adapter, first.previous_adapter) == (3, "a", "b")
    assert all("a" in replica.loaded for replica in replicas)
    assert await stage.states() == {"a": "promoted", "b": "rolled_back"}
    second = await rollback(connect, settings, MODEL, actor="test", reason="worse")
    assert second is not None
    assert (second.generation, second.adapter, second.previous_adapter) == (4, None, "a")
    assert await stage.states() == {"a": "rolled_back", "b": "rolled_back"}
    with pytest.raises(CommandError, match="nothing to roll back"):
        await rollback(connect, settings, MODEL, actor="test", reason="worse")
    announced = [
        orjson.loads(payload) for (payload,) in await stage.fetch("SELECT payload FROM outbox ORDER BY id")
    ]
    assert [(one["generation"], one["action"], one["adapter"]) for one in announced] == [
        (1, "promote", "a"),
        (2, "promote", "b"),
        (3, "rollback", "a"),
        (4, "rollback", None),
    ]


async def test_a_rollback_waits_for_nobody_who_is_down(
    stage: Stage, settings: Settings, connect: Connect, replicas: Pair
) -> None:
    await stage.adapter("a")
    await promote(connect, settings, MODEL, "a", actor="test")
    await stage.adapter("b", incumbent="a")
    await promote(connect, settings, MODEL, "b", actor="test")
    for replica in replicas:
        await replica.stop()
    change = await rollback(connect, settings, MODEL, actor="test", reason="worse", prepare_s=0.1)
    assert change is not None
    assert change.adapter == "a"


async def test_jobs_find_the_adapter_of_their_run(stage: Stage, settings: Settings, connect: Connect) -> None:
    class Payload:
        def __init__(self) -> None:
            self.served_model = MODEL
            self.run_id = uuid4()

    first, second = Payload(), Payload()
    await stage.adapter("a", run_id=first.run_id)
    assert (await run_promotion(settings, first)).adapter == "a"
    await stage.adapter("b", incumbent="a", run_id=second.run_id)
    assert (await run_promotion(settings, second)).adapter == "b"
    # An alarm about the first comes late: what replaced it is not touched.
    assert await run_rollback(settings, first) is None
    change = await run_rollback(settings, second)
    assert change is not None
    assert change.adapter == "a"
    with pytest.raises(CommandError, match="has made no adapter"):
        await run_promotion(settings, Payload())


async def test_jobs_need_nothing_that_fits_weights(stage: Stage, replicas: Pair) -> None:
    """A worker beside the engines promotes and rolls back without torch, whatever else goes on."""
    run_id = uuid4()
    await stage.adapter("a", run_id=run_id)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.promotion.without_training"),
        *(as_json(stage, replicas), str(run_id)),
        cwd=ROOT,
    )
    assert await asyncio.wait_for(process.wait(), 180) == 0
    assert [action for _, action, *_ in await stage.history()] == ["promote", "rollback"]
