"""Base and adapter as one model, proven equal on the spot: the same logits within 1e-4 in fp32, without PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from sentinel.errors import CommandError, TrainingError
from trainer.finetune.base import base_folder
from trainer.finetune.naming import WEIGHTS, adapter_sha256

TOLERANCE: Final = 1e-4
"""Greatest difference of a logit in fp32; rounding of one matrix product instead of three stays below it."""
PROBES: Final = 4
PROBE_LENGTH: Final = 24


class Merged(Struct, frozen=True, kw_only=True):
    """What a merge made."""

    folder: Path
    max_difference: float
    """Of any logit on the probes, the reloaded model beside base + adapter."""
    adapter_bytes: int
    merged_bytes: int


def merge(base: str | Path, adapter: Path, out: Path) -> Merged:
    """Write base + adapter to ``out`` in fp32 with the tokenizer, reload it without PEFT and compare.

    Raises:
        CommandError: ``out`` is there already, or ``adapter`` holds none.
        TrainingError: the logits differ by more than 1e-4; ``out`` is removed again.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if out.exists():
        raise CommandError(f"{out} is there already; name another folder")
    adapter_sha256(adapter)
    source = base_folder(base)

    def load(folder: Path) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        return model.eval()

    both: Any = PeftModel.from_pretrained(load(source), str(adapter)).eval()
    probes = _probes(both.config.get_text_config().vocab_size)
    with torch.no_grad():
        wanted = both(input_ids=probes).logits
    whole = both.merge_and_unload()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(partial)
    with torch.no_grad():
        found = load(partial)(input_ids=probes).logits
    difference = float((found - wanted).abs().max())
    # `not <=`: a difference that is no number is refused too.
    if not difference <= TOLERANCE:
        shutil.rmtree(partial)
        raise TrainingError(
            f"the merged model's logits differ by {difference:.2e}, the limit is {TOLERANCE:.0e}"
        )
    partial.rename(out)
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
