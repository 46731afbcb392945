"""A run that is killed between what it committed and its mark: repeated, once in effect, and still the same question.

The steps that need a model are played; rows, marks, hypothesis, tries, verdict, bundle and jobs are the product's.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import msgspec
import orjson
import pytest

from sentinel.clock import SystemClock
from sentinel.errors import CommandError, ConfigurationError, StaleAttemptError, TrainingError
from sentinel.jobs import JobKind, JobPayload, enqueue
from sentinel.manifests import DatasetManifest
from sentinel.settings import Dataset, Settings
from sentinel.states import RunState
from sentinel.store import training
from sentinel.store.engine import libpq_url
from sentinel.store.tries import next_try
from tests.support.evidence import BASE, GOOD, Model, evidence, sha
from tests.support.waiting import wait_until
from trainer import execution, preflight, steps
from trainer.dataset.writing import store
from trainer.evaluation.items import LoadedSet, version_of
from trainer.evaluation.plan import EvaluationPlan
from trainer.evidence import Evidence, SetKind
from trainer.finetune import run as finetune_run
from trainer.finetune.outcome import Finetuned
from trainer.finetune.validation import Score
from trainer.gate.verification import verify_bundle
from trainer.reporting import Stage, silent
from trainer.run_directory import RunDirectory

Conn: TypeAlias = "asyncpg.Connection[Any]"

SETS = tuple(
    LoadedSet(name=kind.value, kind=kind, items=(), sha256=sha(kind.value))
    for kind in (SetKind.HARMFUL, SetKind.BENIGN)
)


class KilledError(BaseException):
    """The process ends here."""


class Played:
    """The steps that need a model, and how often each was made."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn
        self.model: Model = GOOD
        self.made: list[str] = []
        self.during_evaluation: Any = None
        self.broken: Exception | None = None

    async def build_dataset(
        self, conn: Conn, *, served_model: str, folder: Path, **_: Any
    ) -> DatasetManifest:
        self.made.append("dataset")
        content = sha("rows")
        manifest = DatasetManifest(
            created_at=SystemClock().now(),
            code_version="1",
            dataset_id=UUID(int=1),
            served_model=served_model,
            content_sha256=content,
            rows=2,
            rows_by_kind={"harmful": 1, "twin": 1},
            dropped_by_reason={},
            splits={"train": 1, "validation": 1},
        )
        await store(conn, manifest, [])
        return manifest

    def finetune(self, dataset: Path, base: str, recipe: Any, folder: Path, **_: Any) -> Finetuned:
        self.made.append("finetune")
        if self.broken is not None:
            raise self.broken
        return Finetuned(
            created_at=SystemClock().now(),
            code_version="1",
            adapter=folder / "adapter",
            weights_sha256=sha("weights"),
            adapter_bytes=1,
            rank=8,
            alpha=16,
            dropout=0.0,
            target_modules=("q_proj",),
            base=base,
            base_sha256=sha("base"),
            dataset_sha256=sha("rows"),
            recipe_sha256=sha("recipe"),
            seed=1,
            method="dpo",
            rows=2,
            steps=1,
            planned_steps=1,
            stopped=None,
            chosen_step=1,
            why="the only one",
            score=Score(safety=1.0, usefulness=1.0, garbled=0.0, length_ratio=1.0, loss=0.1),
            final_loss=0.1,
            four_bit_layers=0,
            metrics=folder / "metrics.jsonl",
        )

    async def evaluate(self, plan: EvaluationPlan, folder: Path, **_: Any) -> Evidence:
        self.made.append("evaluate")
        tries = await self.conn.fetchval("SELECT count(*) FROM evaluation_tries")
        assert tries, "counted before anything is asked"
        found = evidence(self.model)
        arms = []
        for arm in found.arms:
            content = f"{arm.name.value}\n".encode()
            (folder / f"outputs-{arm.name.value}.jsonl").write_bytes(content)
            arms.append(msgspec.structs.replace(arm, outputs_sha256=hashlib.sha256(content).hexdigest()))
        found = msgspec.structs.replace(
            found,
            served_model=plan.served_model,
            run_id=plan.run_id,
            candidate=plan.candidate.name,
            candidate_sha256=plan.candidate.sha256,
            arms=tuple(arms),
        )
        (folder / "evidence.json").write_bytes(msgspec.json.encode(found))
        if self.during_evaluation is not None:
            await self.during_evaluation()
        return found


@asynccontextmanager
async def nothing(*_: Any, **__: Any) -> AsyncIterator[Any]:
    class Asker:
        ask_base = None

    yield Asker()


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[Conn]:
    connection = await asyncpg.connect(libpq_url(database_url))
    yield connection
    await connection.close()


@pytest.fixture
def played(conn: Conn, monkeypatch: pytest.MonkeyPatch) -> Played:
    playing = Played(conn)
    monkeypatch.setattr(steps, "build_dataset", playing.build_dataset)
    monkeypatch.setattr(steps, "make_asker", nothing)
    monkeypatch.setattr(steps, "data_judge", nothing)
    monkeypatch.setattr(preflight, "load_sets", lambda _: SETS)
    monkeypatch.setattr(steps, "evaluate", playing.evaluate)
    monkeypatch.setattr(finetune_run, "finetune", playing.finetune)
    monkeypatch.setattr(execution, "_import_training", lambda: None)
    return playing


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: ours\n")
    return Settings.model_validate(
        {
            "database": {"url": database_url},
            "runs_dir": tmp_path / "runs",
            "served_models": {"main": {"public_name": "chat", "base": "tiny", "max_lora_rank": 64}},
            "training": {"recipe": "tiny"},
            "gate": {"policy": str(policy)},
            "promotion": {"mode": "auto"},
            "evaluation": {"server_url": "http://127.0.0.1:9"},
        }
    )


async def begun(conn: Conn) -> UUID:
    run_id = uuid4()
    assert await training.create_run(conn, run_id, "main", "train", {"recipe": "tiny"})
    return run_id


async def attempt(settings: Settings, run_id: UUID) -> str:
    return await execution.execute(settings, run_id, SystemClock(), silent)


async def jobs(conn: Conn) -> list[tuple[str, UUID]]:
    rows = await conn.fetch("SELECT entrypoint, payload FROM pgqueuer.pgqueuer ORDER BY id")
    return [(row["entrypoint"], UUID(orjson.loads(row["payload"])["run_id"])) for row in rows]


def folder_of(settings: Settings, run_id: UUID) -> Path:
    return settings.runs_dir / f"main-{str(run_id)[:8]}"


@pytest.mark.parametrize("step", ["dataset", "finetune", "evaluate", "stored", "gate", "end"])
async def test_killed_before_its_mark_a_step_is_repeated_and_counts_once(
    step: str, conn: Conn, played: Played, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await begun(conn)
    with monkeypatch.context() as kill:
        _kill_at(step, kill)
        with pytest.raises(KilledError):
            await attempt(settings, run_id)
    assert (await training.run_of(conn, run_id)).state is RunState.RUNNING
    assert await attempt(settings, run_id) == "pass"
    assert (await training.run_of(conn, run_id)).state is RunState.SUCCEEDED

    assert played.made.count("dataset") == (2 if step == "dataset" else 1)
    assert played.made.count("evaluate") == (2 if step == "evaluate" else 1)
    assert await jobs(conn) == [("promote", run_id)]
    assert await conn.fetchval("SELECT count(*) FROM datasets") == 1
    (report,) = await conn.fetch("SELECT verdict, bundle_sha256 FROM gate_reports")
    assert tuple(report) == ("pass", verify_bundle(folder_of(settings, run_id) / "gate").sha256)
    (row,) = await conn.fetch("SELECT state, path, run_id FROM adapters")
    assert (row["state"], UUID(bytes=row["run_id"].bytes)) == ("candidate", run_id)
    assert Path(row["path"]).is_absolute()
    (counted,) = await conn.fetch(
        "SELECT k, sets::text AS sets FROM evaluation_tries JOIN evaluation_versions USING (version)"
    )
    assert counted["k"] == 1
    assert [one["name"] for one in orjson.loads(counted["sets"])] == ["harmful", "benign"]
    with pytest.raises(StaleAttemptError, match="has ended"):
        await attempt(settings, run_id)


def _kill_at(step: str, kill: pytest.MonkeyPatch) -> None:
    async def killed(*_: object, **__: object) -> None:
        raise KilledError

    if step == "stored":  # the bundle is written, its row is not
        kill.setattr(steps, "store_report", killed)
    elif step == "end":  # all is done, and the run's row does not say so
        kill.setattr(training, "finish", killed)
    else:
        finish = RunDirectory.finish

        def finish_or_die(self: RunDirectory, name: str, result: Any) -> None:
            if name == step:
                raise KilledError
            finish(self, name, result)

        kill.setattr(RunDirectory, "finish", finish_or_die)


@pytest.mark.parametrize(
    ("changed", "said"),
    [("policy", "the gate's policy"), ("sets", "the version of the evaluation sets")],
)
async def test_what_is_tested_cannot_change_once_training_has_begun(
    changed: str, said: str, conn: Conn, played: Played, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await begun(conn)
    with monkeypatch.context() as kill:
        _kill_at("evaluate", kill)
        with pytest.raises(KilledError):
            await attempt(settings, run_id)
    before = (await training.run_of(conn, run_id)).hypothesis
    if changed == "policy":
        Path(settings.gate.policy).write_text("name: ours\nfloors: {safe: 0.1}\n")
    else:
        monkeypatch.setattr(preflight, "load_sets", lambda _: SETS[:1])
    with pytest.raises(CommandError, match=said):
        await attempt(settings, run_id)
    run = await training.run_of(conn, run_id)
    assert (run.state, run.hypothesis) == (RunState.FAILED, before)
    assert said in run.error
    assert await conn.fetchval("SELECT count(*) FROM gate_reports") == 0


async def test_before_the_data_set_is_made_the_question_may_still_change(
    conn: Conn, played: Played, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await begun(conn)
    with monkeypatch.context() as kill:
        _kill_at("dataset", kill)
        with pytest.raises(KilledError):
            await attempt(settings, run_id)
    Path(settings.gate.policy).write_text("name: theirs\n")
    assert await attempt(settings, run_id) == "pass"
    assert (await training.run_of(conn, run_id)).hypothesis["policy"] == "theirs"


async def test_an_attempt_that_was_taken_over_decides_nothing(
    conn: Conn, played: Played, settings: Settings
) -> None:
    run_id = await begun(conn)

    async def taken_over() -> None:
        await training.begin_attempt(conn, run_id)

    played.during_evaluation = taken_over
    with pytest.raises(StaleAttemptError):
        await attempt(settings, run_id)
    assert await conn.fetchval("SELECT count(*) FROM gate_reports") == 0
    assert await jobs(conn) == []


async def test_the_same_weights_are_not_measured_again_after_a_no(
    conn: Conn, played: Played, settings: Settings
) -> None:
    played.model = BASE
    assert await attempt(settings, await begun(conn)) == "fail"
    played.model = GOOD
    again = await begun(conn)
    with pytest.raises(CommandError, match="which is rejected"):
        await attempt(settings, again)
    assert played.made.count("evaluate") == 1
    assert await jobs(conn) == []


async def test_a_candidate_that_nobody_decided_on_is_promoted_by_the_run_that_made_it(
    conn: Conn, played: Played, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await begun(conn)
    with monkeypatch.context() as kill:
        _kill_at("evaluate", kill)
        with pytest.raises(KilledError):
            await attempt(settings, first)
    await training.request_cancel(conn, first, silent_s=-1.0)
    assert await attempt(settings, await begun(conn)) == "pass"
    assert await jobs(conn) == [("promote", first)]


async def test_the_folder_of_another_run_is_not_gone_on_with(
    conn: Conn, played: Played, settings: Settings
) -> None:
    assert await attempt(settings, await begun(conn)) == "pass"
    (there,) = settings.runs_dir.glob("main-*")
    other = await begun(conn)
    there.rename(folder_of(settings, other))
    with pytest.raises(CommandError, match="is the folder of another run"):
        await attempt(settings, other)
    assert (await training.run_of(conn, other)).state is RunState.FAILED


async def test_an_evaluation_server_elsewhere_reads_the_candidate_from_the_store(
    conn: Conn, played: Played, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = played.finetune, []

    def with_files(dataset: Path, base: str, recipe: Any, folder: Path, **rest: Any) -> Finetuned:
        found = made(dataset, base, recipe, folder, **rest)
        found.adapter.mkdir(parents=True)
        (found.adapter / "adapter_config.json").write_text("{}")
        (found.adapter / "adapter_model.safetensors").write_bytes(b"weights")
        return found

    async def evaluate(plan: EvaluationPlan, folder: Path, **rest: Any) -> Evidence:
        asked.append(plan.candidate)
        return await played.evaluate(plan, folder, **rest)

    monkeypatch.setattr(finetune_run, "finetune", with_files)
    monkeypatch.setattr(steps, "evaluate", evaluate)
    elsewhere = settings.model_copy(
        update={
            "evaluation": settings.evaluation.model_copy(update={"remote_prefix": "/engine/adapters"}),
            "adapters": settings.adapters.model_copy(update={"store": tmp_path / "store"}),
        }
    )
    assert await attempt(elsewhere, await begun(conn)) == "pass"
    (candidate,) = asked
    # The server is told its own folder and this one's name: it must be the adapter's.
    assert candidate.path == tmp_path / "store" / candidate.name
    assert (candidate.path / "adapter_model.safetensors").read_bytes() == b"weights"


async def test_spent_sets_are_said_before_training(conn: Conn, played: Played, settings: Settings) -> None:
    await next_try(conn, "main", version_of(SETS), sha("another"), limit=1)
    with pytest.raises(CommandError, match="is retired: draw new sets"):
        await attempt(settings, await begun(conn))
    assert played.made == []


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"evaluation": {"server_url": None}}, "evaluation.server_url is not set"),
        ({"gate": {"policy": "/nowhere/policy.yaml"}}, "neither a shipped policy"),
        ({"gate": {"signing_key_file": "/nowhere/key.pem"}}, "key.pem"),
        ({"served_models": {"main": {"max_lora_rank": 4}}}, "above max_lora_rank 4"),
        ({"training": {"recipe": "no-such"}}, "no-such"),
        ({"run": {"family": "alchemy"}}, "no evaluation set asks harmful prompts of the family 'alchemy'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
async def test_what_is_missing_at_the_end_is_said_at_the_beginning(
    missing: dict[str, Any], said: str, conn: Conn, played: Played, settings: Settings
) -> None:
    document = settings.model_dump(exclude_unset=True)
    document["database"] = {"url": settings.database.url.get_secret_value()}
    for section, keys in missing.items():
        for key, value in keys.items():
            if section == "served_models":
                document[section][key] |= value
            elif section != "run":
                document[section] |= {key: value}
    run_id = uuid4()
    assert await training.create_run(conn, run_id, "main", "train", missing.get("run"))
    with pytest.raises((CommandError, ConfigurationError), match=said):
        await attempt(Settings.model_validate(document), run_id)
    run = await training.run_of(conn, run_id)
    assert run.state is RunState.FAILED
    assert said in run.error
    assert played.made == []


async def test_without_evaluation_sets_nothing_is_trained(
    conn: Conn, played: Played, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "load_sets", lambda _: ())
    with pytest.raises(ConfigurationError, match=r"evaluation\.sets is empty"):
        await attempt(settings, await begun(conn))
    assert played.made == []


async def test_a_training_that_broke_down_ends_the_run(
    conn: Conn, played: Played, settings: Settings
) -> None:
    run_id = await begun(conn)
    played.broken = TrainingError("the loss is no number at step 3")
    with pytest.raises(TrainingError):
        await attempt(settings, run_id)
    run = await training.run_of(conn, run_id)
    assert (run.state, run.error) == (RunState.FAILED, "the loss is no number at step 3")


@pytest.mark.parametrize(
    ("module", "step", "benign"),
    [(steps, "build_dataset", {"source": "hub", "name": "a/b"}), (finetune_run, "finetune", {})],
)
async def test_a_step_begins_when_the_training_libraries_that_it_uses_are_there(
    module: ModuleType,
    step: str,
    benign: dict[str, str],
    conn: Conn,
    played: Played,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Imported by two threads at once, they are half there for one of them."""
    began = threading.Event()
    made, early = getattr(played, step), []

    def import_slowly() -> None:
        # The steps before it take less.
        early.append(began.wait(2.0))

    def begin(*arguments: Any, **rest: Any) -> Any:
        began.set()
        return made(*arguments, **rest)

    monkeypatch.setattr(execution, "_import_training", import_slowly)
    monkeypatch.setattr(module, step, begin)
    dataset = Dataset.model_validate({"mix": {"benign": benign}})
    assert await attempt(settings.model_copy(update={"dataset": dataset}), await begun(conn)) == "pass"
    assert early == [False]


async def test_news_of_progress_outlive_a_database_that_went_away(
    conn: Conn, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_REPORT_S", 0.01)
    run_id = await begun(conn)
    number = await training.begin_attempt(conn, run_id)
    faults: list[Exception] = [
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.InterfaceError("connection is closed"),
        OSError("refused"),
    ]

    # A connection of its own: the other one reads at the same time.
    own = await asyncpg.connect(libpq_url(database_url))

    @asynccontextmanager
    async def connect() -> AsyncIterator[Conn]:
        if faults:
            raise faults.pop(0)
        yield own

    async def told() -> bool:
        run = await training.run_of(conn, run_id)
        return (run.step, run.progress) == ("finetune", 1.0)

    progress = execution._Progress(connect, run_id, number, silent)
    keeping = asyncio.create_task(progress.keep())
    try:
        for done in range(1, 9):
            progress.report(Stage("finetune", done, 8))
            await asyncio.sleep(0.05)
        await wait_until(told)
        assert faults == []
        assert not keeping.done()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await own.close()


async def test_beside_another_promotion_the_candidate_is_left_to_a_person(
    conn: Conn, played: Played, settings: Settings
) -> None:
    other = JobPayload(kind=JobKind.PROMOTE, run_id=uuid4(), served_model="main")
    assert await enqueue(conn, other)
    run_id = await begun(conn)
    assert await attempt(settings, run_id) == "pass"
    assert await jobs(conn) == [("promote", other.run_id)]
    events = (folder_of(settings, run_id) / "events.jsonl").read_bytes().splitlines()
    (told,) = [event for event in map(orjson.loads, events) if event["action"] == "handed_over"]
    assert told["to"] == "nobody"


async def test_manual_promotions_await_a_person(conn: Conn, played: Played, settings: Settings) -> None:
    manual = settings.model_copy(
        update={"promotion": settings.promotion.model_copy(update={"mode": "manual"})}
    )
    assert await attempt(manual, await begun(conn)) == "pass"
    assert await conn.fetchval("SELECT state FROM adapters") == "awaiting_approval"
    assert await jobs(conn) == []
