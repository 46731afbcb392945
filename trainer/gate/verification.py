"""Recompute a verdict from its bundle, without network, database or model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
from msgspec import Struct
from pydantic import ValidationError

from sentinel.digests import sha256_of
from sentinel.errors import CommandError
from trainer.gate.bundle import Document, OutputFile, Signed, read_bundle
from trainer.gate.decision import decide
from trainer.gate.policy import GatePolicy
from trainer.gate.report import RULES, GateReport
from trainer.gate.signing import canonical, signed_by


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    holds: bool | None
    """None: it could not be looked at, which is said and is no failure."""
    text: str


class Verification(Struct, frozen=True, kw_only=True):
    """What became of a bundle."""

    path: Path
    sha256: str
    public_key: str
    findings: tuple[Finding, ...]
    report: GateReport
    """As it stands in the bundle."""

    @property
    def verified(self) -> bool:
        """Nothing is wrong. It says nothing about whether the candidate passed: see ``report.verdict``."""
        return all(finding.holds is not False for finding in self.findings)


def verify_bundle(
    path: Path, *, trusted: Collection[str] | None = None, folders: Sequence[Path] = ()
) -> Verification:
    """Check a bundle (its file, or the folder that holds it) and decide again on its evidence.

    ``trusted`` are public keys, base64, one of which must have signed; None: whoever holds the key in the bundle may
    have signed, which is said. Files of raw answers are looked for beside the bundle, in ``../evaluation``, and in
    ``folders``; one that is found must be the one that was signed.

    Raises:
        CommandError: no such file, or it is not a bundle at all.
    """
    signed, document, content = read_bundle(path)
    folder = path if path.is_dir() else path.parent
    places = (folder, folder / "outputs", folder.parent / "evaluation", *folders)
    return Verification(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        public_key=signed.public_key,
        findings=(
            *_signature(signed, content, trusted),
            *_recomputed(document),
            *_outputs(document, places),
        ),
        report=document.report,
    )


def _signature(signed: Signed, content: bytes, trusted: Collection[str] | None) -> Iterator[Finding]:
    yield Finding(
        "form",
        # A key that stands twice, white space, another spelling of a number: one document has one form.
        canonical(orjson.loads(content)) == content,
        "the file is in its canonical form",
    )
    yield Finding(
        "signature",
        signed_by(signed.public_key, signed.signature, bytes(signed.document)),
        f"the document is signed by the key {signed.public_key}",
    )
    if trusted is None:
        yield Finding(
            "key", None, "nobody said which key to trust: give --public-key, or set gate.public_keys"
        )
    else:
        yield Finding("key", signed.public_key in trusted, f"the key {signed.public_key} is a trusted one")


def _recomputed(document: Document) -> Iterator[Finding]:
    if document.rules != RULES or document.report.rules != RULES:
        text = f"the verdict was made under rules {document.rules}, this release knows rules {RULES}"
        yield Finding("rules", False, text)
        return
    try:
        policy = GatePolicy.model_validate(document.policy)
    except ValidationError as error:
        yield Finding("policy", False, f"the policy is not valid: {error.error_count()} problems")
        return
    yield Finding(
        "policy",
        policy.model_dump(mode="json") == document.policy and policy.sha256 == document.policy_sha256,
        f"the policy {policy.name} has the hash {document.policy_sha256[:12]}",
    )
    try:
        again = decide(document.evidence, policy, document.attempt, family=document.family)
    except CommandError as error:
        yield Finding("verdict", False, f"the evidence cannot be decided on: {error}")
        return
    yield Finding(
        "verdict",
        same(msgspec.to_builtins(again), msgspec.to_builtins(document.report)),
        f"deciding again gives {again.verdict.value}, with every check as in the bundle"
        if again.verdict is document.report.verdict
        else f"deciding again gives {again.verdict.value}, the bundle says {document.report.verdict.value}",
    )


def _outputs(document: Document, places: Sequence[Path]) -> Iterator[Finding]:
    listed = {one.sha256 for one in document.outputs}
    for arm in document.evidence.arms:
        if arm.outputs_sha256:
            yield Finding(
                f"answers.{arm.name.value}",
                arm.outputs_sha256 in listed,
                f"the raw answers of the {arm.name.value} arm are listed by the hash that evaluation wrote down",
            )
    for output in document.outputs:
        yield _file(output, places)


def _file(output: OutputFile, places: Sequence[Path]) -> Finding:
    name = f"file.{output.name}"
    if Path(output.name).name != output.name:
        return Finding(name, False, "the name of a file of raw answers is a path")
    found = [place / output.name for place in places if (place / output.name).is_file()]
    if not found:
        return Finding(name, None, f"{output.name} is not here; its hash is {output.sha256[:12]}")
    wrong = [path for path in found if sha256_of(path) != output.sha256]
    if wrong:
        return Finding(name, False, f"{wrong[0]} is not the file that was signed")
    return Finding(name, found[0].stat().st_size == output.bytes, f"{found[0]} is the file that was signed")


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values agree; numbers to nine digits, since mathematics libraries differ in the last ones."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return type(one) is type(other) and one == other
