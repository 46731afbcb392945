from __future__ import annotations

from pathlib import Path

import msgspec
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from sentinel.errors import ConfigurationError
from tests.support.evidence import BASE, attempt, evidence
from trainer.commands.train import app
from trainer.gate.bundle import write_bundle
from trainer.gate.decision import decide
from trainer.gate.policy import load_policy
from trainer.gate.signing import load_key, make_key, public_key

run = CliRunner().invoke


def test_what_if_prints_the_report_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_bytes(msgspec.json.encode(evidence()))
    good = run(app, ["gate", "decide", str(tmp_path), "--what-if", "1"])
    assert (good.exit_code, good.exception) == (0, None)
    assert "chat-candidate: pass" in good.stdout
    assert "safe.superior" in good.stdout
    (tmp_path / "evidence.json").write_bytes(msgspec.json.encode(evidence(BASE)))
    bad = run(app, ["gate", "decide", str(tmp_path / "evidence.json"), "--what-if", "3", "--json"])
    assert bad.exit_code == 1
    report = orjson.loads(bad.stdout)
    assert (report["verdict"], report["k"]) == ("fail", 3)
    assert len(report["reasons"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.json"]


def test_unreadable_evidence_is_said(tmp_path: Path) -> None:
    result = run(app, ["gate", "decide", str(tmp_path / "none"), "--what-if", "1"])
    assert "sentinel train evaluate" in str(result.exception)


def test_verify_with_the_right_and_a_wrong_key(tmp_path: Path) -> None:
    found = evidence()
    found = msgspec.structs.replace(
        found, arms=tuple(msgspec.structs.replace(arm, outputs_sha256="") for arm in found.arms)
    )
    keygen = run(app, ["gate", "keygen", "--out", str(tmp_path / "key.pem")])
    assert keygen.exit_code == 0
    key = load_key(tmp_path / "key.pem")
    assert keygen.stdout.strip() == public_key(key)
    (tmp_path / "gate.pub").write_text(keygen.stdout)
    policy, tried = load_policy("default"), attempt(found)
    bundle = write_bundle(
        tmp_path / "gate", found, policy, decide(found, policy, tried), tried, outputs=[], key=key
    )
    right = run(app, ["gate", "verify", str(bundle.path), "--public-key", str(tmp_path / "gate.pub")])
    assert right.exit_code == 0
    assert "\nverified: chat-candidate pass, try 1" in right.stdout
    (tmp_path / "other.pub").write_text(public_key(Ed25519PrivateKey.generate()))
    wrong = run(app, ["gate", "verify", str(bundle.path), "--public-key", str(tmp_path / "other.pub")])
    assert wrong.exit_code == 1
    assert "NOT verified" in wrong.stdout
    # The own key of the settings is trusted without being named.
    env = {"SENTINEL_GATE__SIGNING_KEY_FILE": str(tmp_path / "key.pem")}
    assert run(app, ["gate", "verify", str(tmp_path / "gate")], env=env).exit_code == 0
    make_key(tmp_path / "another.pem")
    env = {"SENTINEL_GATE__SIGNING_KEY_FILE": str(tmp_path / "another.pem")}
    assert run(app, ["gate", "verify", str(tmp_path / "gate")], env=env).exit_code == 1


@pytest.mark.parametrize("name", ["default", "demo"])
def test_policy_shows_every_value_and_the_levels(name: str) -> None:
    result = run(app, ["gate", "policy", name])
    assert result.exit_code == 0
    for text in (
        load_policy(name).sha256,
        "margins.useful",
        "floors.false_refusal",
        "level of try 1: 0.0304, 2:",
    ):
        assert text in result.stdout


def test_power_prints_what_a_number_of_prompts_can_show() -> None:
    result = run(app, ["gate", "power", "740"])
    assert result.exit_code == 0
    assert "0.765" in result.stdout


def test_policies_are_strict(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    for text, wanted in (
        ("margin: {}", "margin: Extra inputs"),
        ("alpha: 0.5", "alpha"),
        ("minimum: {family: 40}", "minimum.family"),
        ("max_tries: 21", "max_tries"),
        ("floors: {safe: .nan}", "floors.safe"),
        ("evaluation_sets: {harmful: {requests: 3, sha256: abc}}", "evaluation_sets.harmful.sha256"),
        ("- 1", "policy"),
        ("a: [", "no YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=wanted):
            load_policy(file)
    with pytest.raises(ConfigurationError, match="neither a shipped policy"):
        load_policy(tmp_path / "absent.yaml")


def test_shipped_policies_say_every_value_with_a_comment() -> None:
    default = load_policy("default")
    # Comments and layout do not count, values do.
    assert default.sha256 != load_policy("demo").sha256
    assert default.model_copy(update={"alpha": 0.01}).sha256 != default.sha256
    from sentinel.resources import data_path

    for name in ("default", "demo"):
        text = data_path("configs", "gates", f"{name}.yaml").read_text()
        written = load_policy(name).model_fields_set
        assert written >= set(type(default).model_fields) - {"evaluation_sets"}
        for part in ("margins", "floors", "minimum", "limits"):
            assert getattr(load_policy(name), part).model_fields_set == set(
                type(getattr(default, part)).model_fields
            )
        assert text.count("#") >= 8
