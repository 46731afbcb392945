"""``sentinel train gate decide`` with a database: counted, signed, stored."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import asyncpg
import msgspec
from typer.testing import CliRunner, Result

from sentinel.errors import CommandError
from sentinel.store import training
from sentinel.store.engine import libpq_url
from tests.support.evidence import BASE, GOOD, Model, evidence, sha
from tests.support.postgres import Databases
from trainer.commands.train import app
from trainer.gate.policy import load_policy
from trainer.gate.verification import verify_bundle
from trainer.preregistration import Hypothesis

_ADAPTER = """
INSERT INTO adapters (adapter, served_model, state, path, weights_sha256, manifest)
VALUES ($2, 'chat', 'candidate', '/nowhere', $1, '{}')
"""


def evaluated(folder: Path, model: Model, name: str) -> None:
    found = evidence(model)
    folder.mkdir(parents=True)
    arms = []
    for arm in found.arms:
        content = f'{{"answer":"of {arm.name.value}"}}\n'.encode()
        (folder / f"outputs-{arm.name.value}.jsonl").write_bytes(content)
        arms.append(msgspec.structs.replace(arm, outputs_sha256=hashlib.sha256(content).hexdigest()))
    found = msgspec.structs.replace(found, arms=tuple(arms), candidate=name, candidate_sha256=sha(name))
    (folder / "evidence.json").write_bytes(msgspec.json.encode(found))


def test_decide_counts_signs_and_stores(postgres_server: Databases, tmp_path: Path) -> None:
    async def prepared(url: str) -> None:
        conn = await asyncpg.connect(libpq_url(url))
        for name in ("good", "copy"):
            await conn.execute(_ADAPTER, sha(name), name)
        await conn.close()

    async def stored(url: str) -> list[tuple[str, str, str, str]]:
        conn = await asyncpg.connect(libpq_url(url))
        rows = await conn.fetch(
            "SELECT r.adapter, r.verdict, a.state, r.bundle_sha256 FROM gate_reports r"
            " JOIN adapters a USING (adapter) ORDER BY r.adapter"
        )
        await conn.close()
        return [tuple(row) for row in rows]

    async def work() -> None:
        async with postgres_server.database() as url:
            await prepared(url)
            env = {"SENTINEL_DATABASE__URL": url, "SENTINEL_RUNS_DIR": str(tmp_path)}

            def decide(name: str) -> Result:
                return CliRunner().invoke(
                    app, ["gate", "decide", str(tmp_path / name / "evaluation")], env=env
                )

            evaluated(tmp_path / "good" / "evaluation", GOOD, "good")
            evaluated(tmp_path / "copy" / "evaluation", BASE, "copy")
            first = await asyncio.to_thread(decide, "copy")
            assert first.exit_code == 1
            assert "try 1" in first.stdout
            second = await asyncio.to_thread(decide, "good")
            assert (second.exit_code, second.exception) == (0, None)
            assert "try 2" in second.stdout
            # Again: the same number, the same bundle, the same report.
            assert (await asyncio.to_thread(decide, "good")).exit_code == 0
            for name in ("copy", "good"):
                assert verify_bundle(tmp_path / name / "gate").verified
            assert await stored(url) == [
                (name, verdict, state, verify_bundle(tmp_path / name / "gate").sha256)
                for name, verdict, state in (("copy", "fail", "rejected"), ("good", "pass", "candidate"))
            ]
            # Lost answers are no ground for a verdict.
            (tmp_path / "good" / "evaluation" / "outputs-base.jsonl").unlink()
            lost = await asyncio.to_thread(decide, "good")
            assert isinstance(lost.exception, CommandError)
            checked = await asyncio.to_thread(
                CliRunner().invoke, app, ["gate", "verify", str(tmp_path / "good" / "gate")], env=env
            )
            assert checked.exit_code == 0
            assert "is not here" in checked.stdout

    asyncio.run(work())


def test_of_a_run_the_question_is_the_one_it_wrote_down(postgres_server: Databases, tmp_path: Path) -> None:
    found = evidence(GOOD)
    default = load_policy("default")
    question = Hypothesis(
        safer_than=None,
        family="",
        policy=default.name,
        policy_sha256=default.sha256,
        sets_version=found.sets_version,
    )

    async def prepared(url: str) -> None:
        conn = await asyncpg.connect(libpq_url(url))
        await conn.execute(_ADAPTER, sha("good"), "good")
        await training.create_run(conn, found.run_id, "chat")
        attempt = await training.begin_attempt(conn, found.run_id)
        await training.set_hypothesis(conn, found.run_id, attempt, msgspec.to_builtins(question))
        await conn.close()

    async def work() -> None:
        async with postgres_server.database() as url:
            await prepared(url)
            env = {"SENTINEL_DATABASE__URL": url, "SENTINEL_RUNS_DIR": str(tmp_path)}
            evaluated(tmp_path / "good" / "evaluation", GOOD, "good")

            def decide(*options: str) -> Result:
                folder = str(tmp_path / "good" / "evaluation")
                return CliRunner().invoke(app, ["gate", "decide", folder, *options], env=env)

            soft = tmp_path / "soft.yaml"
            soft.write_text("floors: {safe: 0.1}\n")
            for options, said in (
                (("--policy", str(soft)), "the gate's policy"),
                (("--family", "fraud"), "the family"),
            ):
                refused = await asyncio.to_thread(decide, *options)
                assert isinstance(refused.exception, CommandError)
                assert said in str(refused.exception)
            assert not (tmp_path / "good" / "gate").exists()
            assert (await asyncio.to_thread(decide)).exit_code == 0

    asyncio.run(work())
