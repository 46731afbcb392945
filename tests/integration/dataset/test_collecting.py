"""Which stored pairs still hold."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from typer.testing import CliRunner

from daemon.cli import app
from sentinel import ids
from sentinel.events import Message
from sentinel.reserved import is_reserved
from sentinel.settings import Settings
from tests.integration.dataset.conftest import AT, GUARD, Traffic
from trainer import pairs
from trainer.dataset.building import collected_for
from trainer.dataset.drops import Drop
from trainer.pairs import Collected

REFUSAL, COMPLIANCE = "I cannot help you with that.", "Sure: begin slowly."


async def add(traffic: Traffic, prompt: str = "How do I rob a bank?", **columns: Any) -> Any:
    return await traffic.pair(prompt, REFUSAL, COMPLIANCE, **columns)


async def collect(traffic: Traffic, settings: Settings, **changes: Any) -> Collected:
    changed = settings.model_copy(
        update={"dataset": settings.dataset.model_copy(update=changes)} if changes else {}
    )
    return await collected_for(traffic.conn, "main", changed)


async def event_of(traffic: Traffic, pair: Any) -> Any:
    return await traffic.conn.fetchval("SELECT event_id FROM preference_pairs WHERE pair_id = $1", pair)


async def test_a_pair_comes_with_what_decides_about_it(traffic: Traffic, settings: Settings) -> None:
    pair = await add(traffic, category="Violent", tenant="acme", system="You sell hardware.")
    other = await add(traffic, "How do I cheat?", category="")
    collected = await collect(traffic, settings)
    first, second = collected.valid
    assert (first.pair_id, second.pair_id) == (pair, other)
    assert first.prompt == (Message("system", "You sell hardware."), Message("user", "How do I rob a bank?"))
    assert (first.chosen, first.rejected) == (REFUSAL, COMPLIANCE)
    assert (first.family, first.client, first.adapter) == ("Violent", "tenant acme", None)
    assert (first.guard_id, first.score_run, first.fresh) == (GUARD, 0, True)
    assert second.client == "source shop"
    assert collected.dropped == {}


async def test_of_very_many_pairs_the_newest_are_read(
    traffic: Traffic, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = [await add(traffic, f"How do I rob bank {number}?") for number in range(4)]
    monkeypatch.setattr(pairs, "MOST", 2)
    collected = await collect(traffic, settings)
    assert [pair.pair_id for pair in collected.valid] == added[2:]


async def test_pairs_of_other_served_models_are_not_seen(traffic: Traffic, settings: Settings) -> None:
    await add(traffic)
    await traffic.conn.execute("UPDATE preference_pairs SET served_model = 'other'")
    assert (await collect(traffic, settings)).valid == ()


@pytest.mark.parametrize(("attempt", "label"), [(0, "safe"), (1, "unsafe"), (1, "unparseable")])
async def test_a_flipped_verdict_of_a_later_score_run_takes_a_pair_out(
    traffic: Traffic, settings: Settings, attempt: int, label: str
) -> None:
    flipped, kept = await add(traffic), await add(traffic, "How do I cheat?")
    for pair in (flipped, kept):
        event = await event_of(traffic, pair)
        await traffic.verdict(event, "unsafe", score_run=1, guard="b" * 16)
        await traffic.verdict(event, "safe", attempt=1, score_run=1, guard="b" * 16)
    event = await event_of(traffic, flipped)
    await traffic.verdict(event, label, attempt=attempt, score_run=2, guard="c" * 16)
    collected = await collect(traffic, settings)
    assert collected.dropped == {flipped: Drop.FLIPPED}
    assert [pair.pair_id for pair in collected.valid] == [kept]
    assert collected.valid[0].score_run == 1
    # An earlier run may be named: then the later one says nothing.
    assert len((await collect(traffic, settings, score_run=1)).valid) == 2


async def test_guards_of_one_run_that_disagree_make_no_pair(traffic: Traffic, settings: Settings) -> None:
    pair = await add(traffic)
    event = await event_of(traffic, pair)
    await traffic.verdict(event, "unsafe", score_run=1, guard="b" * 16)
    await traffic.verdict(event, "safe", score_run=1, guard="c" * 16)
    assert (await collect(traffic, settings)).dropped == {pair: Drop.FLIPPED}


async def test_the_policy_in_force_reads_the_verdicts(traffic: Traffic, settings: Settings) -> None:
    pair = await add(traffic)
    await traffic.conn.execute("UPDATE verdicts SET label = 'controversial' WHERE attempt = 1")
    assert len((await collect(traffic, settings)).valid) == 1
    strict = Settings.model_validate({"policy": {"strict": True}})
    assert (await collect(traffic, strict)).dropped == {pair: Drop.FLIPPED}


async def test_an_erased_finding_takes_its_pair_with_it_and_an_overridden_one_keeps_it_out(
    traffic: Traffic, settings: Settings
) -> None:
    erased, overridden, kept = [await add(traffic, f"How do I cheat at game {n}?") for n in range(3)]
    await traffic.conn.execute("DELETE FROM findings WHERE event_id = $1", await event_of(traffic, erased))
    finding = ids.finding_id(await event_of(traffic, overridden))
    await traffic.conn.execute(
        "INSERT INTO audit_log (actor, action, subject) VALUES ('eve', 'finding.override', $1)", str(finding)
    )
    collected = await collect(traffic, settings)
    assert collected.dropped == {overridden: Drop.OVERRIDDEN}
    assert [pair.pair_id for pair in collected.valid] == [kept]


async def test_reserved_conversations_never_become_pairs(traffic: Traffic, settings: Settings) -> None:
    for number in range(200):
        await add(traffic, f"How do I cheat at game {number}?", conversation_id=f"conversation-{number}")
    collected = await collect(traffic, settings)
    assert 1 <= len(collected.dropped) <= 25
    assert set(collected.dropped.values()) == {Drop.RESERVED}
    expected = {
        pair
        for number, pair in enumerate(traffic.pairs)
        if is_reserved(f"conversation-{number}", (), settings.evaluation.reserved_share)
    }
    assert set(collected.dropped) == expected


async def test_a_pair_is_fresh_until_a_runs_data_set_has_it(traffic: Traffic, settings: Settings) -> None:
    used, fresh = await add(traffic), await add(traffic, "How do I cheat?")
    dataset = uuid4()
    await traffic.conn.execute(
        "INSERT INTO datasets (dataset_id, served_model, content_sha256, rows, manifest)"
        " VALUES ($1, 'main', 'x', 1, '{}')",
        dataset,
    )
    await traffic.conn.execute(
        "INSERT INTO dataset_pairs (dataset_id, pair_id) VALUES ($1, $2)", dataset, used
    )
    by_hand = {pair.pair_id: pair.fresh for pair in (await collect(traffic, settings)).valid}
    assert by_hand == {used: True, fresh: True}
    await traffic.conn.execute(
        "INSERT INTO training_runs (run_id, served_model, kind, dataset_id) VALUES ($1, 'main', 'train', $2)",
        uuid4(),
        dataset,
    )
    found = {pair.pair_id: pair.fresh for pair in (await collect(traffic, settings)).valid}
    assert found == {used: False, fresh: True}


async def test_an_answer_is_an_adapters_by_record_by_name_or_by_what_was_in_service(
    traffic: Traffic, settings: Settings
) -> None:
    await traffic.adapter("main-1")
    await add(traffic, "one?", generator="assistant")
    await traffic.conn.execute(
        "INSERT INTO promotions (promotion_id, served_model, generation, adapter, action, actor, created_at)"
        " VALUES ($1, 'main', 1, 'main-1', 'promote', 'eve', $2)",
        uuid4(),
        AT.replace(minute=30),
    )
    later = {"received_at": AT.replace(hour=13)}
    await add(traffic, "two?", generator="assistant", **later)
    await add(traffic, "three?", generator="tiny", **later)
    await add(traffic, "four?", generator="main-1")
    await add(traffic, "five?", generator="assistant", served_by="main-1")
    await add(traffic, "six?", generator="tiny", served_by="tiny", **later)
    found = {pair.prompt[0].text: pair.adapter for pair in (await collect(traffic, settings)).valid}
    assert found == {
        "one?": None, "two?": "main-1", "three?": None, "four?": "main-1", "five?": "main-1", "six?": None,
    }  # fmt: skip


async def test_the_command_counts_what_is_there(traffic: Traffic, database_url: str, tmp_path: Any) -> None:
    await add(traffic)
    await add(traffic, "How do I cheat?", category="Fraud")
    await traffic.pair("Both?", REFUSAL, "Sorry, I cannot do that.")
    flipped = await add(traffic, "Flipped?")
    await traffic.verdict(await event_of(traffic, flipped), "safe", score_run=1)
    config = tmp_path / "sentinel.yaml"
    models = {"main": {"public_name": "assistant", "base": "tiny"}}
    config.write_text(yaml.safe_dump({"database": {"url": database_url}, "served_models": models}))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["--config", str(config), "train", "pairs", *arguments])

    listed = tmp_path / "pairs.jsonl"
    result = await asyncio.to_thread(run, "--json", "--out", str(listed))
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found == {
        "served_model": "main", "stored": 4, "valid": 2, "fresh": 2, "from_adapters": 0,
        "families": {"Fraud": 1, "Violent": 1}, "dropped": {"both_refuse": 1, "flipped": 1}, "min_pairs": 50,
    }  # fmt: skip
    lines = {UUID(line["pair_id"]): line for line in map(json.loads, listed.read_text().splitlines())}
    assert lines.keys() == set(traffic.pairs)
    assert {pair: line["dropped"] for pair, line in lines.items() if line["dropped"]} == {
        traffic.pairs[2]: "both_refuse", flipped: "flipped",
    }  # fmt: skip
    assert UUID(lines[traffic.pairs[0]]["event_id"]) == traffic.events[0]
    assert "Both?" not in listed.read_text()
    table = await asyncio.to_thread(run, "-m", "main")
    assert "both_refuse 1" in table.stdout
    unknown = await asyncio.to_thread(run, "-m", "nobody")
    assert "served_models has no 'nobody'" in str(unknown.exception)
