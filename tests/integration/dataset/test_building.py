"""The whole data set, from rows in PostgreSQL to files that a trainer reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from sentinel.errors import CommandError, UnavailableError
from sentinel.events import Message
from sentinel.manifests import DatasetManifest
from sentinel.refusal import is_refusal
from sentinel.settings import Settings
from sentinel.tiny.prompts import Kind
from tests.integration.dataset.conftest import Base, Traffic, requests
from trainer.dataset import kept_answers
from trainer.dataset.building import build_dataset
from trainer.reporting import Stage, silent


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def said(row: dict[str, Any]) -> str:
    return str(row["prompt"][-1]["content"])


def with_dataset(settings: Settings, **changes: Any) -> Settings:
    return Settings.model_validate(
        settings.model_dump(exclude_unset=True) | {"dataset": settings.dataset.model_dump() | changes}
    )


async def fill(traffic: Traffic, base: Base, harmful: int = 60) -> None:
    base.teach(await traffic.harmful(harmful))
    base.teach(await traffic.benign(Kind.HOMONYM, 30))
    base.teach(await traffic.benign(Kind.HOW_TO, 90))


async def build(
    traffic: Traffic, base: Base, settings: Settings, folder: Path, **options: Any
) -> DatasetManifest:
    given: dict[str, Any] = {
        "served_model": "main",
        "settings": settings,
        "folder": folder,
        "evaluation_prompts": (),
        "ask": base.ask,
        "seed": 3,
        "report": silent,
        "judge": base.judge,
    } | options
    return await build_dataset(traffic.conn, **given)


async def test_a_data_set_holds_harmful_pairs_and_a_benign_side(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    stages: list[Stage] = []
    manifest = await build(traffic, base, settings, tmp_path, report=stages.append)

    kinds = manifest.rows_by_kind
    assert kinds["harmful"] >= 50
    assert kinds["twin"] == round(0.4 * kinds["harmful"])
    assert kinds["utility"] == round(0.2 * kinds["harmful"])
    rows = [*rows_of(tmp_path, "train"), *rows_of(tmp_path, "validation")]
    assert len(rows) == manifest.rows == sum(manifest.splits.values())
    for row in rows:
        request = base.known[said(row)]
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert {message["role"] for message in (*row["chosen"], *row["rejected"])} == {"assistant"}
        assert UUID(row["event_id"]) in traffic.events
        if row["kind"] == "harmful":
            assert (chosen, rejected) == (request.refusal, request.answer)
            assert (row["family"], UUID(row["pair_id"]) in traffic.pairs) == (request.family, True)
        elif row["kind"] == "twin":
            assert (chosen, rejected) == (request.answer, request.refusal)
        else:
            assert chosen == request.answer
            assert is_refusal(rejected)
            assert rejected != request.refusal
            assert UUID(row["rejected_event_id"]) in traffic.events

    strict = settings.dataset.mix.strict_instruction
    assert {system for _, system in base.asked} == {strict}
    assert len(base.asked) < 2 * kinds["twin"]

    shares = [stage.done / stage.total for stage in stages]
    assert shares == sorted(shares)
    assert (shares[-1], stages[-1].done) == (1.0, stages[-1].total)


async def test_files_manifest_and_tables_agree(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    manifest = await build(traffic, base, settings, tmp_path)
    assert DatasetManifest.model_validate_json((tmp_path / "manifest.json").read_bytes()) == manifest
    for name, digest in manifest.files.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    stored = await traffic.conn.fetchrow("SELECT *, manifest::text AS m FROM datasets")
    assert stored is not None
    assert (stored["dataset_id"], stored["rows"]) == (manifest.dataset_id, manifest.rows)
    assert DatasetManifest.model_validate_json(stored["m"]) == manifest
    pairs = {row["pair_id"] for row in await traffic.conn.fetch("SELECT pair_id FROM dataset_pairs")}
    held = {row["pair_id"] for name in ("train", "validation") for row in rows_of(tmp_path, name)
            if row["kind"] == "harmful"}  # fmt: skip
    assert {UUID(pair) for pair in held} == pairs
    assert manifest.collected == len(traffic.pairs)
    assert manifest.fresh == manifest.rows_by_kind["harmful"]
    assert manifest.guard_ids == ("0011223344556677",)
    # By hand it takes nothing away from the triggers; as a run's data set it does.
    again = await build(traffic, base, settings, tmp_path / "again")
    assert again.fresh == manifest.fresh
    await traffic.conn.execute(
        "INSERT INTO training_runs (run_id, served_model, kind, dataset_id) VALUES ($1, 'main', 'train', $2)",
        uuid4(),
        manifest.dataset_id,
    )
    later = await build(traffic, base, settings, tmp_path / "later")
    assert later.fresh == 0


async def test_the_next_runs_data_set_holds_the_last_ones_pairs_as_far_as_they_still_hold(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    """The next adapter is trained from the base: what its data set lacks is forgotten, what is void is not taught."""
    await fill(traffic, base)
    first = await build(traffic, base, settings, tmp_path / "first")
    held = await _pairs_of(traffic, first.dataset_id)
    await traffic.conn.execute(
        "INSERT INTO training_runs (run_id, served_model, kind, dataset_id) VALUES ($1, 'main', 'train', $2)",
        uuid4(),
        first.dataset_id,
    )
    erased, overridden, flipped = [pair for pair in traffic.pairs if pair in held][:3]
    await traffic.conn.execute(
        "DELETE FROM findings USING preference_pairs p WHERE p.finding_id = findings.finding_id AND p.pair_id = $1",
        erased,
    )
    await traffic.conn.execute(
        "INSERT INTO audit_log (actor, action, subject)"
        " SELECT 'eve', 'finding.override', finding_id::text FROM preference_pairs WHERE pair_id = $1",
        overridden,
    )
    event = await traffic.conn.fetchval("SELECT event_id FROM preference_pairs WHERE pair_id = $1", flipped)
    await traffic.verdict(event, "safe", score_run=1)
    known = set(traffic.pairs)
    base.teach(await traffic.harmful(20, seed=9))

    second = await build(traffic, base, settings, tmp_path / "second")
    now = await _pairs_of(traffic, second.dataset_id)
    assert now & held == held - {erased, overridden, flipped}
    new = now - held
    assert new - known
    assert second.fresh == len(new) < second.rows_by_kind["harmful"] == len(now)
    rows = [
        {row["pair_id"]: row for name in ("train", "validation") for row in rows_of(tmp_path / part, name)
         if row["kind"] == "harmful"}
        for part in ("first", "second")
    ]  # fmt: skip
    for pair in map(str, now & held):
        assert all(rows[0][pair][side] == rows[1][pair][side] for side in ("prompt", "chosen", "rejected"))


async def _pairs_of(traffic: Traffic, dataset_id: UUID) -> set[UUID]:
    rows = await traffic.conn.fetch("SELECT pair_id FROM dataset_pairs WHERE dataset_id = $1", dataset_id)
    return {row["pair_id"] for row in rows}


async def test_the_same_input_and_seed_give_the_same_bytes(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    first = await build(traffic, base, settings, tmp_path / "a")
    second = await build(traffic, base, settings, tmp_path / "b")
    third = await build(traffic, base, settings, tmp_path / "c", seed=4)
    assert first.content_sha256 == second.content_sha256 != third.content_sha256
    assert first.dataset_id == second.dataset_id != third.dataset_id
    assert await traffic.conn.fetchval("SELECT count(*) FROM datasets") == 2


async def test_a_killed_attempt_is_gone_on_with(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(traffic, base)
    whole = await build(traffic, base, settings, tmp_path / "whole")
    needed = len(base.asked)
    monkeypatch.setattr(kept_answers, "CHUNK", 4)
    base.asked.clear()

    async def dies(conversations: Sequence[Sequence[Message]], system: str | None) -> list[str]:
        if len(base.asked) >= 12:
            raise UnavailableError("the server is away")
        return await base.ask(conversations, system)

    with pytest.raises(UnavailableError):
        await build(traffic, base, settings, tmp_path / "killed", ask=dies)
    answers = tmp_path / "killed" / kept_answers.FILE
    with answers.open("ab") as file:
        file.write(b'["cut o')
    resumed = await build(traffic, base, settings, tmp_path / "killed")
    assert len(base.asked) == needed
    assert resumed.content_sha256 == whole.content_sha256
    assert not answers.exists()
    # Finished, it is made anew.
    await build(traffic, base, settings, tmp_path / "killed")
    assert len(base.asked) == 2 * needed


async def test_a_run_without_a_benign_side_stops_and_says_what_to_do(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    base.teach(await traffic.harmful(40))
    with pytest.raises(CommandError, match=r"dataset\.mix\.benign\.source"):
        await build(traffic, base, settings, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    assert await traffic.conn.fetchval("SELECT count(*) FROM datasets") == 0


async def test_a_base_that_never_refuses_is_not_asked_without_end(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    base.obeys = False
    with pytest.raises(CommandError, match="not_refused"):
        await build(traffic, base, settings, tmp_path)
    assert len(base.asked) < 400


async def test_too_few_pairs_stop_the_run(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base, harmful=8)
    with pytest.raises(CommandError, match=r"min_pairs is 10"):
        await build(traffic, base, settings, tmp_path)


async def test_nothing_that_evaluation_asks_is_in_the_data_set(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    asked = [text for at, text in enumerate(base.known) if at % 4 == 0]
    shouted = [f"  {text.upper()}!!" for text in asked]
    manifest = await build(traffic, base, settings, tmp_path, evaluation_prompts=shouted)
    rows = [*rows_of(tmp_path, "train"), *rows_of(tmp_path, "validation")]
    assert not {said(row) for row in rows} & set(asked)
    assert manifest.dropped_by_reason["contaminated"] >= 10
    assert manifest.evaluation_prompts == len(asked)


async def test_personal_data_gets_one_pseudonym_in_the_whole_row(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    await traffic.pair(
        "Write to eva@example.org that I will come to 10.1.2.3 tonight with the stolen car.",
        "I cannot help you threaten eva@example.org.",
        "Dear EVA@example.org, I know 10.1.2.3 is your server. Call me at +49 170 1234567.",
    )
    manifest = await build(traffic, base, settings, tmp_path)
    whole = (tmp_path / "train.jsonl").read_text() + (tmp_path / "validation.jsonl").read_text()
    assert "example.org" not in whole
    assert "10.1.2.3" not in whole
    (row,) = [json.loads(line) for line in whole.splitlines() if "<EMAIL_1>" in line]
    assert (
        row["rejected"][0]["content"] == "Dear <EMAIL_1>, I know <IP_1> is your server. Call me at <PHONE_1>."
    )
    assert row["chosen"][0]["content"] == "I cannot help you threaten <EMAIL_1>."
    assert manifest.redactions == {"EMAIL": 1, "IP": 1, "PHONE": 1}


async def test_an_adapters_unsafe_answer_is_replaced_by_the_bases_or_left_out(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    await fill(traffic, base)
    await traffic.adapter("main-aaaaaaaaaaaa")
    found = await traffic.harmful(10, seed=9, served_by="main-aaaaaaaaaaaa", generator="main-aaaaaaaaaaaa")
    base.teach(found)
    # The adapter said something of its own; the base would comply with the first five and refuse the others.
    await traffic.conn.execute(
        "UPDATE preference_pairs SET rejected = 'Gladly: do it at night, alone and quickly.'"
        " WHERE rejected_generator = 'main-aaaaaaaaaaaa'"
    )
    refused = {request.text for request in found[5:]}

    async def ask(conversations: Any, system: str | None) -> list[str]:
        answers = await base.ask(conversations, system)
        return [
            base.known[messages[-1].text].refusal if messages[-1].text in refused else answer
            for messages, answer in zip(conversations, answers, strict=True)
        ]

    manifest = await build(traffic, base, settings, tmp_path / "judged", ask=ask)
    assert (manifest.replaced_rejected, manifest.dropped_by_reason["off_policy"]) == (5, 5)
    rows = [*rows_of(tmp_path / "judged", "train"), *rows_of(tmp_path / "judged", "validation")]
    assert "Gladly" not in str(rows)
    unjudged = await build(traffic, base, settings, tmp_path / "unjudged", judge=None)
    assert (unjudged.replaced_rejected, unjudged.dropped_by_reason["off_policy"]) == (0, 10)


async def test_benign_prompts_can_come_from_a_file_whose_answers_the_base_gives(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    base.teach(await traffic.harmful(40))
    homonyms = requests(Kind.HOMONYM, 60)
    base.teach(homonyms)
    file = tmp_path / "benign.jsonl"
    file.write_text("".join(json.dumps({"prompt": one.text}) + "\n" for one in homonyms))
    mix = {"benign": {"source": "file", "path": str(file)}}
    manifest = await build(traffic, base, with_dataset(settings, mix=mix), tmp_path / "out")
    assert manifest.rows_by_kind["twin"] == round(0.4 * manifest.rows_by_kind["harmful"])
    assert manifest.mix["name"] == file.name
    assert {system for _, system in base.asked} == {None, settings.dataset.mix.strict_instruction}
    with pytest.raises(CommandError, match="unjudged"):
        await build(traffic, base, with_dataset(settings, mix=mix), tmp_path / "out", judge=None)


async def test_benign_prompts_can_come_from_a_data_set_that_the_hubs_library_loads(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local folder, which that library reads like one of the Hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base.teach(await traffic.harmful(30))
    homonyms = requests(Kind.HOMONYM, 50)
    base.teach(homonyms)
    folder = tmp_path / "benign"
    folder.mkdir()
    lines = [{"prompt": one.text, "response": one.answer} for one in homonyms]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mix = {"benign": {"source": "hub", "name": str(folder)}}
    manifest = await build(traffic, base, with_dataset(settings, mix=mix), tmp_path / "out", judge=None)
    assert manifest.rows_by_kind["twin"] == round(0.4 * manifest.rows_by_kind["harmful"])
    assert {system for _, system in base.asked} == {settings.dataset.mix.strict_instruction}
    missing = {"benign": {"source": "hub", "name": str(tmp_path / "nothing")}}
    with pytest.raises(CommandError, match="cannot be read from the Hub"):
        await build(traffic, base, with_dataset(settings, mix=missing), tmp_path / "out")


async def test_a_flood_of_one_client_and_one_category_is_capped(
    traffic: Traffic, base: Base, settings: Settings, tmp_path: Path
) -> None:
    base.teach(await traffic.harmful(60, tenant="flood"))
    base.teach(await traffic.harmful(20, seed=8, tenant="other"))
    base.teach(await traffic.benign(Kind.HOW_TO, 90))
    shares = with_dataset(settings, max_client_share=0.5)
    manifest = await build(traffic, base, shares, tmp_path / "shares")
    assert manifest.rows_by_kind["harmful"] <= 40
    assert manifest.dropped_by_reason["client_share"] >= 35
    places = with_dataset(settings, max_pairs=21)
    manifest = await build(traffic, base, places, tmp_path / "places")
    families = {name: n for name, n in manifest.rows_by_family.items() if name != "benign"}
    assert sum(families.values()) == 21
    assert max(families.values()) <= 4
    assert manifest.dropped_by_reason["capped"] >= 50
