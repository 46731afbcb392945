"""Base and adapter as one model, proven equal on the spot: the same logits within 1e-4 in fp32, without PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import orjson
from msgspec import Struct

from sentinel.errors import CommandError, TrainingError
from trainer.finetune.base import base_folder, base_sha256
from trainer.finetune.naming import WEIGHTS, adapter_sha256
from trainer.finetune.outcome import base_name
from trainer.reporting import Report, Stage, silent

TOLERANCE: Final = 1e-4
"""Greatest difference of a logit in fp32; rounding of one matrix product instead of three stays below it."""
PROBES: Final = 4
PROBE_LENGTH: Final = 24
ORIGIN: Final = "merged_from.json"
"""Beside the merged weights: what they were made from, and how equal they are."""
_STAGES: Final = ("loading base and adapter", "merging", "writing", "comparing with what was written", "done")


class Merged(Struct, frozen=True, kw_only=True):
    """What a merge made."""

    folder: Path
    max_difference: float
    """Of any logit on the probes, the reloaded model beside base + adapter."""
    adapter_bytes: int
    merged_bytes: int


def merge(base: str | Path, adapter: Path, out: Path, *, report: Report = silent) -> Merged:
    """Write base + adapter to ``out`` in fp32 with the tokenizer, reload it without PEFT and compare.

    ``out`` appears whole or not at all; killed, it is begun anew.

    Raises:
        CommandError: ``out`` is there already, or ``adapter`` holds none.
        TrainingError: the logits differ by more than 1e-4; ``out`` is removed again.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if out.exists():
        raise CommandError(f"{out} is there already; name another folder")
    weights = adapter_sha256(adapter)
    source = base_folder(base)

    def tell(done: int) -> None:
        report(Stage("merge", done, len(_STAGES) - 1, _STAGES[done]))

    def load(folder: Path) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        return model.eval()

    tell(0)
    both: Any = PeftModel.from_pretrained(load(source), str(adapter)).eval()
    probes = _probes(both.config.get_text_config().vocab_size)
    with torch.no_grad():
        wanted = both(input_ids=probes).logits
    tell(1)
    whole = both.merge_and_unload()
    tell(2)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(partial)
    tell(3)
    with torch.no_grad():
        found = load(partial)(input_ids=probes).logits
    difference = float((found - wanted).abs().max())
    # `not <=`: a difference that is no number is refused too.
    if not difference <= TOLERANCE:
        shutil.rmtree(partial)
        raise TrainingError(
            f"the merged model's logits differ by {difference:.2e}, the limit is {TOLERANCE:.0e}"
        )
    origin = {
        "schema_version": 1,
        "base": base_name(base),
        "base_sha256": base_sha256(source),
        "adapter_sha256": weights,
        "max_difference": difference,
        "tolerance": TOLERANCE,
    }
    (partial / ORIGIN).write_bytes(orjson.dumps(origin, option=orjson.OPT_INDENT_2))
    partial.rename(out)
    tell(4)
    return Merged(
        folder=out,
        max_difference=difference,
        adapter_bytes=(adapter / WEIGHTS).stat().st_size,
        merged_bytes=sum(path.stat().st_size for path in out.glob("*.safetensors")),
    )


def _probes(vocabulary: int) -> Any:
    """Token ids, [4, 24], from a fixed seed: a wrong layer shows on any input."""
    import torch

    return torch.randint(vocabulary, (PROBES, PROBE_LENGTH), generator=torch.Generator().manual_seed(0))
