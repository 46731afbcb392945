"""A bundle proves its verdict, and any change in it shows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sentinel.errors import CommandError, ConfigurationError
from tests.support.evidence import GOOD, attempt, evidence
from trainer.evidence import Evidence
from trainer.gate.bundle import Bundle, write_bundle
from trainer.gate.decision import decide
from trainer.gate.policy import GatePolicy, load_policy
from trainer.gate.signing import canonical, load_key, make_key, public_key, read_public_key, sign, signed_by
from trainer.gate.verification import Verification, verify_bundle

POLICY = load_policy("default")


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def with_outputs(found: Evidence, folder: Path) -> tuple[Evidence, list[Path]]:
    """The evidence with a real file of raw answers for each arm."""
    folder.mkdir(parents=True, exist_ok=True)
    arms, files = [], []
    for arm in found.arms:
        path = folder / f"outputs-{arm.name.value}.jsonl"
        path.write_text(f'{{"item":"0001","answer":"of {arm.name.value}"}}\n')
        files.append(path)
        arms.append(
            msgspec.structs.replace(arm, outputs_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        )
    return msgspec.structs.replace(found, arms=tuple(arms)), files


def bundled(
    run: Path, key: Ed25519PrivateKey, found: Evidence, policy: GatePolicy = POLICY, family: str = ""
) -> Bundle:
    found, files = with_outputs(found, run / "evaluation")
    tried = attempt(found, 2)
    return write_bundle(
        run / "gate",
        found,
        policy,
        decide(found, policy, tried, family=family),
        tried,
        outputs=files,
        key=key,
    )


def wrong(result: Verification) -> set[str]:
    return {finding.name for finding in result.findings if finding.holds is False}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON value that is no container, and of every empty one."""
    if isinstance(value, dict | list) and value:
        for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, at))
    else:
        yield path


def flipped(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return ("0" if value[:1] != "0" else "1") + value[1:]
        case None:
            return 0
        case []:
            return [0]
        case {}:
            return {"more": 0}
    raise AssertionError(value)


def changed(document: Any, path: tuple[Any, ...]) -> Any:
    copy = deepcopy(document)
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = flipped(place[path[-1]])
    return copy


def broken(folder: Path, content: bytes, trusted: tuple[str, ...]) -> bool:
    """Whether the bundle is refused, either as no bundle at all or by what it is checked for."""
    (folder / "bundle.json").write_bytes(content)
    try:
        return not verify_bundle(folder, trusted=trusted).verified
    except CommandError:
        return True


def test_a_bundle_verifies_with_its_answers_and_without(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    bundle = bundled(tmp_path, key, evidence())
    found = verify_bundle(bundle.path, trusted=[public_key(key)])
    assert wrong(found) == set()
    assert found.verified
    assert all(finding.holds for finding in found.findings)
    assert (found.sha256, found.report.verdict) == (bundle.sha256, "pass")
    # The same from the folder; written twice it is the same file.
    assert verify_bundle(tmp_path / "gate", trusted=[public_key(key)]).verified
    assert bundled(tmp_path, key, evidence()) == bundle
    # Elsewhere, without the raw answers: said, and no failure.
    alone = tmp_path / "elsewhere.json"
    alone.write_bytes(bundle.path.read_bytes())
    found = verify_bundle(alone, trusted=[public_key(key)])
    assert found.verified
    assert sum(finding.holds is None for finding in found.findings) == 2
    # Without a trusted key it is said that nobody vouches for the signer.
    unsure = verify_bundle(alone)
    assert unsure.verified
    assert {finding.name for finding in unsure.findings if finding.holds is None} > {"key"}


def test_another_signer_is_refused(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    bundle = bundled(tmp_path, key, evidence())
    other = public_key(Ed25519PrivateKey.generate())
    assert wrong(verify_bundle(bundle.path, trusted=[other])) == {"key"}
    assert wrong(verify_bundle(bundle.path, trusted=[])) == {"key"}


def test_changed_raw_answers_are_seen(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    bundle = bundled(tmp_path, key, evidence())
    (tmp_path / "evaluation" / "outputs-base.jsonl").write_text("{}\n")
    assert wrong(verify_bundle(bundle.path)) == {"file.outputs-base.jsonl"}


def small() -> tuple[Evidence, GatePolicy]:
    """Evidence of few prompts that passes under a policy made for it, so that every leaf can be flipped in turn."""
    policy = GatePolicy.model_validate(
        {
            "name": "small",
            "alpha": 0.2,
            "margins": {"useful": 0.5, "false_refusal": 0.5, "safe": 0.5},
            "floors": {"safe": 0.2, "useful": 0.2, "false_refusal": 0.8},
            "minimum": {"harmful": 5, "benign": 5, "useful": 5},
            "limits": {"garbled": 0.8},
            "evaluation_sets": {
                "harmful": {"requests": 12, "sha256": hashlib.sha256(b"harmful").hexdigest()}
            },
        }
    )
    return evidence(GOOD, harmful=12, benign=12, same_family=True), policy


def test_flipping_any_one_field_breaks_verification(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    found, policy = small()
    bundle = bundled(tmp_path, key, found, policy)
    trusted = (public_key(key),)
    assert verify_bundle(bundle.path, trusted=trusted).report.verdict == "pass"
    document = orjson.loads(bundle.path.read_bytes())
    paths = list(leaves(document))
    assert len(paths) > 500
    for path in paths:
        assert broken(tmp_path / "gate", canonical(changed(document, path)), trusted), path


def test_what_decides_is_recomputed_whoever_signs(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    """Not the signature alone: the holder of the key cannot change the report, the policy or the level either."""
    found, policy = small()
    bundle = bundled(tmp_path, key, found, policy)
    document = orjson.loads(bundle.path.read_bytes())["document"]
    # What a verdict does not depend on can only be vouched for by the signer.
    free = {
        ("evidence", name)
        for name in ("created_at", "base_sha256", "dataset_sha256", "seed", "data_guard_id", "judge_guard_id")
    } | {
        ("evidence", name)
        for name in ("engine", "sampling", "detectors", "probes", "schema_version", "incumbent")
    }
    seen = 0
    for path in leaves(document):
        if path[:2] in free or path[0] == "outputs":
            continue
        if path[:2] == ("evidence", "arms"):
            continue  # the next test
        forged = changed(document, path)
        content = canonical(
            {
                "document": forged,
                "public_key": public_key(key),
                "signature": sign(key, canonical(forged)),
            }
        )
        assert broken(tmp_path / "gate", content, (public_key(key),)), path
        seen += 1
    assert seen > 150


def test_better_outcomes_under_a_new_signature_do_not_fit_the_report(
    tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    found, policy = small()
    bundle = bundled(tmp_path, key, found, policy)
    document = orjson.loads(bundle.path.read_bytes())["document"]
    for at, outcome in enumerate(document["evidence"]["arms"][1]["outcomes"]):
        forged = deepcopy(document)
        name = "unsafe" if outcome["set"] == "harmful" else "useful"
        forged["evidence"]["arms"][1]["outcomes"][at][name] = not outcome[name]
        content = canonical(
            {"document": forged, "public_key": public_key(key), "signature": sign(key, canonical(forged))}
        )
        (tmp_path / "gate" / "bundle.json").write_bytes(content)
        assert wrong(verify_bundle(tmp_path / "gate")) == {"verdict"}


def test_bytes_beside_the_document_break_it_too(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    bundle = bundled(tmp_path, key, small()[0], small()[1])
    content = bundle.path.read_bytes()
    for other in (
        content + b"\n",
        content.replace(b":", b": ", 1),
        content[:-1] + b',"extra":1}',
        content[1:],
    ):
        assert broken(tmp_path / "gate", other, (public_key(key),))
    twice = content[:-1] + b',"signature":"' + b"A" * 86 + b'=="}'
    assert broken(tmp_path / "gate", twice, (public_key(key),))
    (tmp_path / "gate" / "bundle.json").write_text("{}")
    with pytest.raises(CommandError, match="not a gate bundle"):
        verify_bundle(tmp_path / "gate")
    with pytest.raises(CommandError, match="cannot read"):
        verify_bundle(tmp_path / "none.json")


def test_a_bundle_is_not_written_over_other_answers(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    found, files = with_outputs(evidence(), tmp_path / "evaluation")
    tried = attempt(found)

    def write() -> None:
        write_bundle(
            tmp_path / "gate",
            found,
            POLICY,
            decide(found, POLICY, tried),
            tried,
            outputs=files,
            key=key,
        )

    files[0].write_text("something else")
    with pytest.raises(CommandError, match="raw answers of the base arm: evaluate again"):
        write()
    files[0].unlink()
    with pytest.raises(CommandError, match="missing"):
        write()
    assert not (tmp_path / "gate").exists()


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "gate.pem"
    public = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key(load_key(path)) == public
    with pytest.raises(CommandError, match="never replaced"):
        make_key(path)
    assert public_key(load_key(path)) == public
    assert [one.name for one in path.parent.iterdir()] == ["gate.pem"]
    (tmp_path / "public").write_text(public + "\n")
    assert read_public_key(tmp_path / "public") == public
    (tmp_path / "public").write_text("nonsense")
    with pytest.raises(CommandError, match="neither"):
        read_public_key(tmp_path / "public")
    with pytest.raises(ConfigurationError, match="keygen"):
        load_key(tmp_path / "absent.pem")
    (tmp_path / "bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigurationError, match="no unencrypted private key"):
        load_key(tmp_path / "bad.pem")


def test_a_signature_has_one_spelling(key: Ed25519PrivateKey) -> None:
    mark = sign(key, b"content")
    assert signed_by(public_key(key), mark, b"content")
    assert not signed_by(public_key(key), mark, b"other")
    # The last character of base64 carries bits that stand for nothing.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = mark[:-3] + alphabet[alphabet.index(mark[-3]) ^ 1] + mark[-2:]
    assert base64.b64decode(other) == base64.b64decode(mark)
    assert not signed_by(public_key(key), other, b"content")
    assert not signed_by("nonsense", mark, b"content")
    assert not signed_by(public_key(key), mark[:-4], b"content")
