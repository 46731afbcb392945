"""What goes to the Hub with an adapter: weights and settings, the recipe, every measure, and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from pydantic import ValidationError

from sentinel.errors import CommandError
from sentinel.manifests import DatasetManifest
from sentinel.settings import Publication
from trainer.adapter_card import adapter_card
from trainer.dataset.writing import MANIFEST
from trainer.evaluation.run import EVIDENCE, read_evidence
from trainer.evaluation.summary import Summary, summarise
from trainer.evidence import Evidence
from trainer.finetune.naming import CONFIG, WEIGHTS
from trainer.finetune.outcome import ADAPTER, Finetuned, read_finetuned
from trainer.finetune.records import METRICS, SNAPSHOT
from trainer.gate.bundle import NAME, read_bundle
from trainer.gate.report import GateReport
from trainer.publish import CARD, Upload, repo_of

FIGURES: Final = "metrics.json"
FINETUNE: Final = "finetune"


def holds_adapter(folder: Path) -> bool:
    """Whether it is a run's folder, or that of a fine-tuning, rather than a data set's."""
    return (folder / ADAPTER).is_dir() or (folder / FINETUNE).is_dir()


def plan_adapter(
    folder: Path,
    settings: Publication,
    *,
    repo: str | None = None,
    private: bool = True,
    unredacted: bool = False,
) -> Upload:
    """Check a run's folder, or that of its fine-tuning alone, and say what would go; nothing is sent.

    ``repo`` is ``<account>/<model>_LoRA`` where none is given, with the served model that was evaluated.

    Raises:
        CommandError: nothing finished is there, its parts do not belong together, the data set was made without
            redaction and ``unredacted`` is not set, or the repository cannot be named.
    """
    source = folder / FINETUNE if (folder / FINETUNE).is_dir() else folder
    # A fine-tuning in a folder of another name was made by hand: what lies beside it is something else.
    run = source.parent if source.name == FINETUNE else source
    made = read_finetuned(source)
    if made is None:
        raise CommandError(f"{source} holds no finished fine-tuning")
    redacted = _redacted(run / "dataset")
    if redacted is False and not unredacted:
        raise CommandError(
            f"{run} was trained on texts that were not redacted and the adapter may repeat them; train it anew, or"
            " say --unredacted"
        )
    evidence, verdict = _evidence(run, made), _verdict(run, made)
    summary = None if evidence is None else summarise(evidence)
    served_model = evidence.served_model if evidence is not None else ""
    if not repo and not served_model:
        raise CommandError(f"{folder} was not evaluated for a served model: name the repository with --repo")
    name = repo_of(repo, settings.account, served_model, "LoRA")
    card = adapter_card(
        made,
        evidence,
        summary,
        verdict,
        name=name.split("/")[1],
        licence=settings.licence,
        redacted=redacted,
    )
    return Upload(
        repo=name,
        endpoint=settings.endpoint,
        private=private,
        kind="model",
        files={
            **{file: (made.adapter / file).read_bytes() for file in (CONFIG, WEIGHTS)},
            **{file: (source / file).read_bytes() for file in (SNAPSHOT, METRICS)},
            FIGURES: _figures(made, evidence, summary, verdict),
            CARD: card.encode(),
        },
        sha256=made.weights_sha256,
    )


def _redacted(dataset: Path) -> bool | None:
    """Whether the run's data set was; None for one that is not there."""
    try:
        return DatasetManifest.model_validate_json((dataset / MANIFEST).read_bytes()).redacted
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CommandError(f"{dataset / MANIFEST} cannot be read ({type(error).__name__})") from error


def _evidence(run: Path, made: Finetuned) -> Evidence | None:
    folder = run / "evaluation"
    if not (folder / EVIDENCE).exists():
        return None
    found = read_evidence(folder)
    _same(folder, found.candidate_sha256, made)
    return found


def _verdict(run: Path, made: Finetuned) -> GateReport | None:
    folder = run / "gate"
    if not (folder / NAME).exists():
        return None
    _, document, _ = read_bundle(folder)
    _same(folder, document.report.candidate_sha256, made)
    return document.report


def _same(folder: Path, sha256: str, made: Finetuned) -> None:
    if sha256 != made.weights_sha256:
        raise CommandError(f"{folder} is about another adapter than {made.adapter}: nothing was sent")


def _figures(
    made: Finetuned, evidence: Evidence | None, summary: Summary | None, verdict: GateReport | None
) -> bytes:
    """No prompt and no answer is in it."""
    left_out = {"adapter", "metrics", "merged"}
    training = {name: getattr(made, name) for name in made.__struct_fields__ if name not in left_out}
    evaluation: dict[str, Any] | None = None
    if evidence is not None and summary is not None:
        evaluation = {
            **{
                name: getattr(evidence, name)
                for name in ("created_at", "sets", "sets_version", "engine", "sampling", "seed", "detectors")
            },
            "perplexity": {arm.name.value: arm.perplexity for arm in evidence.arms},
            "summary": summary,
        }
    found = {"training": training, "evaluation": evaluation, "gate": verdict}
    return orjson.dumps(msgspec.to_builtins(found), option=orjson.OPT_INDENT_2) + b"\n"
