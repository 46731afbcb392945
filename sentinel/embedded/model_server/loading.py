"""Reading a model's folder: weights, tokenizer, limits, the tokens that end an answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel.embedded.model_server.sampling import Sampling
from sentinel.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run, and what its folder says about its use."""

    model: Any
    tokenizer: Any
    max_len: int
    """Tokens of prompt and answer together."""
    vocabulary: int
    stop_tokens: frozenset[int]
    sampling: Sampling
    """What holds where a request says nothing, from ``generation_config.json`` as in vLLM."""


def load(folder: Path, *, max_len: int | None, threads: int) -> Loaded:
    """Load in float32; torch computes with ``threads`` threads in this whole process from then on.

    Raises:
        ConfigurationError: no readable model with a chat template's tokenizer, or one with sliding windows.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}: the model server needs the extra `serve`") from error
    torch.set_num_threads(threads)
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"no model at {folder}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"the model at {folder} cannot be loaded: {error}") from error
    config = model.config
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise ConfigurationError("models with sliding windows or recurrent layers cannot be batched here")
    positions = int(config.max_position_embeddings)
    ends = model.generation_config.eos_token_id
    model.requires_grad_(False)
    model.train(mode=False)
    return Loaded(
        model,
        tokenizer,
        min(max_len or positions, positions),
        int(config.vocab_size),
        frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
        _defaults(model.generation_config),
    )


def _defaults(config: Any) -> Sampling:
    plain = Sampling()
    heat, share, best = config.temperature, config.top_p, config.top_k
    return Sampling(
        temperature=plain.temperature if heat is None or math.isnan(heat) else float(heat),
        top_p=plain.top_p if share is None else float(share),
        top_k=plain.top_k if best is None else int(best),
    )
