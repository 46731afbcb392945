"""The card of a published adapter: what it was made from, how it was measured, what the gate said, what it is not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from trainer.evaluation.summary import Measured, Summary
from trainer.evidence import Evidence
from trainer.finetune.outcome import Finetuned
from trainer.gate.report import GateReport


def adapter_card(
    made: Finetuned,
    evidence: Evidence | None,
    summary: Summary | None,
    verdict: GateReport | None,
    *,
    name: str,
    licence: str,
    redacted: bool | None,
) -> str:
    """README.md with the Hub's metadata; every figure is read from what the run wrote.

    ``redacted`` says whether the texts that it was trained on were, None where nobody knows.
    """
    head: dict[str, Any] = {
        "license": licence,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", made.method, "safety", "sentinel-loop"],
    }
    if "/" in made.base:
        # A base from a folder has no name that the Hub knows.
        head["base_model"] = made.base
    told = (*_made(made, name, licence, redacted), *_measured(evidence, summary), *_gate(verdict), _LIMITS)
    body = "\n".join(told)
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{body}"


def _made(made: Finetuned, name: str, licence: str, redacted: bool | None) -> Iterable[str]:
    yield f"# {name}\n"
    yield f"A LoRA adapter of `{made.base}`, trained to answer unsafe requests safely without refusing harmless ones."
    yield "\n| | |\n|---|---|"
    yield f"| Weights | sha256 `{made.weights_sha256}`, {made.adapter_bytes:,} bytes |"
    yield f"| Base | `{made.base}`, sha256 `{made.base_sha256}`, unchanged |"
    yield f"| Data set | sha256 `{made.dataset_sha256}`, {made.rows} rows trained on |"
    yield f"| Personal data | {_PERSONAL[redacted]} |"
    yield f"| Method | {made.method}, rank {made.rank}, layers {', '.join(made.target_modules)} |"
    yield f"| Steps | {made.steps} of {made.planned_steps}, seed {made.seed}, final loss {made.final_loss:.4f} |"
    yield f"| Checkpoint | step {made.chosen_step}: {made.why} |"
    yield f"| Licence | {licence} |\n"


def _measured(evidence: Evidence | None, summary: Summary | None) -> Iterable[str]:
    yield "## Evaluation\n"
    if evidence is None or summary is None:
        yield "Not evaluated.\n"
        return
    sets = ", ".join(f"{one.name} ({one.items} {one.kind.value} prompts)" for one in evidence.sets)
    yield f"On {sets}, which training never saw; rates with 95 % intervals (Wilson).\n"
    yield "| measure | arm | rate | interval | n |\n|---|---|---|---|---|"
    yield from map(_row, summary.measured)
    yield ""


def _row(one: Measured) -> str:
    rate = one.wilson
    return f"| {one.measure} | {one.arm.value} | {rate.value:.3f} | {rate.low:.3f} to {rate.high:.3f} | {one.n} |"


def _gate(verdict: GateReport | None) -> Iterable[str]:
    yield "## Gate\n"
    if verdict is None:
        yield "No gate has decided on this adapter.\n"
        return
    yield f"Verdict **{verdict.verdict.value}** by the policy `{verdict.policy}`, try {verdict.k}.\n"
    yield from (f"- {reason}" for reason in verdict.reasons)
    if verdict.reasons:
        yield ""


_PERSONAL = {
    True: "redacted by form before training",
    False: "not redacted",
    None: "unknown: the data set was not there to be looked at",
}

_LIMITS = """## Limitations

- What is safe was told by models and by phrases, not by people; both miss some harm and flag some harmless text.
- It was measured on the prompts named above. Rates on other traffic differ.
- It makes sense with these very base weights only.
"""
