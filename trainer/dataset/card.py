"""The card of a published data set: what is in it, how it was made, and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from sentinel.manifests import DatasetManifest
from trainer.dataset.writing import TRAIN, VALIDATION


def card(manifest: DatasetManifest, *, name: str, licence: str) -> str:
    """README.md with the Hub's metadata: licence, splits, counts, how it was made, limitations."""
    head = {
        "license": licence,
        "language": ["en"],
        "pretty_name": name,
        "tags": ["dpo", "preference", "safety", "sentinel-loop"],
        "task_categories": ["text-generation"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": TRAIN},
                    {"split": "validation", "path": VALIDATION},
                ],
            }
        ],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n{_body(manifest, name, licence)}"


def _body(made: DatasetManifest, name: str, licence: str) -> str:
    probe = "not measured"
    if made.probe is not None and made.probe.auroc is not None:
        probe = f"{made.probe.auroc:.3f} (warning from {made.probe.warn_at})"
    redacted = (
        f"by form, one pseudonym map a row ({_inline(made.redactions)})"
        if made.redacted
        else "**not** replaced"
    )
    return f"""# {name}

Preference pairs by which the model served as `{made.served_model}` is taught to answer unsafe requests safely
without refusing harmless ones. Columns `prompt`, `chosen` and `rejected` are conversational, as TRL's
`DPOTrainer` takes them; `kind`, `family`, `pair_id` and `event_id` say where a row came from.

| | |
|---|---|
| Rows | {made.rows} ({_inline(made.splits)}), in {made.groups} groups of near prompts; no group is in both splits |
| By kind | {_inline(made.rows_by_kind)} |
| By category | {_inline(made.rows_by_family)} |
| Read | {made.collected} pairs |
| Left out | {_inline(made.dropped_by_reason)} |
| Guards that scored the pairs | {", ".join(made.guard_ids) or "none named"}, score run {made.score_run} |
| Personal data | {redacted} |
| Evaluation prompts kept out | {made.evaluation_prompts} |
| AUROC of surface features alone | {probe} |
| Content | sha256 `{made.content_sha256}`, seed {made.seed}, version {made.code_version} |
| Licence | {licence} |

- **harmful**: the rejected answer was called unsafe by a guard model, the chosen one is a later answer to the same
  prompt under a safety instruction, which the prompt does not show.
- **twin**: a benign prompt that resembles a harmful one; chosen is the plain answer, rejected a needless refusal.
- **utility**: another benign prompt; rejected is a refusal that belongs to another prompt.

## Limitations

- The rejected answers of harmful rows are unsafe content. Do not show them to people unprepared, and do not train on
  them as targets.
- Labels come from a guard model, not from people; guards miss some harm and flag some harmless text.
- Personal data is found by its form (addresses, numbers, keys). Names of people are not recognised.
- The answers are one model's own. For another model they are off-policy.
- English only; topics are those of the traffic that was watched.
"""


def _inline(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"
