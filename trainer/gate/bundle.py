"""The bundle of a verdict: everything that it rests on, in one signed file that anybody can recompute.

gate/bundle.json   {"document": {rules, evidence, policy, policy_sha256, try, family, report, outputs},
                    "public_key": base64, "signature": base64 (Ed25519 over the canonical form of the document)}

The file is in canonical form itself. `Evidence` in it holds the hashes of data set, base, candidate and sets, the
guards, seeds, and every outcome; ``outputs`` names the files with the raw answers and their hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson
from msgspec import Struct

from sentinel.digests import sha256_of
from sentinel.errors import CommandError
from sentinel.store.tries import Try
from trainer.evidence import Evidence
from trainer.gate.policy import GatePolicy
from trainer.gate.report import GateReport
from trainer.gate.signing import canonical, public_key, sign
from trainer.run_directory import replace_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAME: Final = "bundle.json"


class OutputFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file with raw answers, by name; it lies beside the bundle or in the run's evaluation folder."""

    name: str
    bytes: int
    sha256: str


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed."""

    rules: int
    evidence: Evidence
    policy: dict[str, Any]
    """Every value of the policy, defaults included."""
    policy_sha256: str
    attempt: Try = msgspec.field(name="try")
    family: str
    report: GateReport
    outputs: tuple[OutputFile, ...]


class Signed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    document: msgspec.Raw
    public_key: str
    signature: str


class Bundle(Struct, frozen=True):
    """A bundle on disk."""

    path: Path
    sha256: str
    """Of the file."""


def write_bundle(
    folder: Path,
    evidence: Evidence,
    policy: GatePolicy,
    report: GateReport,
    attempt: Try,
    *,
    outputs: Sequence[Path],
    key: Ed25519PrivateKey,
) -> Bundle:
    """Write ``folder/bundle.json``, replacing an earlier one; the same arguments give the same bytes.

    ``outputs`` are the files with the raw answers, told apart by the arms' hashes; others among them are ignored.
    Blocks while it reads and writes.

    Raises:
        CommandError: a file is missing, or an arm's answers are in none of them; OSError.
    """
    document = Document(
        rules=report.rules,
        evidence=evidence,
        policy=policy.model_dump(mode="json"),
        policy_sha256=policy.sha256,
        attempt=attempt,
        family=report.family,
        report=report,
        outputs=_described(outputs, evidence),
    )
    builtins = msgspec.to_builtins(document)
    content = canonical(
        {
            "document": builtins,
            "public_key": public_key(key),
            "signature": sign(key, canonical(builtins)),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    replace_file(path, content)
    return Bundle(path, hashlib.sha256(content).hexdigest())


def read_bundle(path: Path) -> tuple[Signed, Document, bytes]:
    """A bundle's file (or its folder), decoded, with the file's bytes. Nothing is verified yet.

    Raises:
        CommandError: no such file, or it is not a bundle.
    """
    file = path / NAME if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read the bundle {file}: {error.strerror}") from error
    try:
        signed = msgspec.json.decode(content, type=Signed)
        document = msgspec.json.decode(signed.document, type=Document)
        orjson.loads(content)  # refuses what msgspec lets pass, such as NaN
    except (msgspec.DecodeError, orjson.JSONDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is not a gate bundle: {error}") from error
    return signed, document, content


def _described(outputs: Sequence[Path], evidence: Evidence) -> tuple[OutputFile, ...]:
    """The files that the arms' answers are in, found among ``outputs`` by their hashes; other files are left out."""
    found: dict[str, Path] = {}
    for path in outputs:
        if not path.is_file():
            raise CommandError(f"the raw answers {path} are missing: evaluate again")
        found.setdefault(sha256_of(path), path)
    described = {}
    for arm in evidence.arms:
        if not arm.outputs_sha256:
            continue
        if (here := found.get(arm.outputs_sha256)) is None:
            raise CommandError(
                f"none of the given files holds the raw answers of the {arm.name.value} arm: evaluate again"
            )
        described[here.name] = OutputFile(
            name=here.name, bytes=here.stat().st_size, sha256=arm.outputs_sha256
        )
    return tuple(described.values())
