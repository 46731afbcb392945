"""A random Llama of a third of a million parameters with a tokenizer over bytes, and adapters good and bad.

Made in a second from fixed seeds; its answers are noise, but the same noise on every engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LEN = 512
MAX_LORA_RANK = 16

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class TinyLlama:
    """Where everything lies."""

    model: Path
    alpha: Path
    """Rank 8 on every linear layer."""
    beta: Path
    """Rank 4 on two of them."""
    foreign: Path
    """Target modules of another architecture."""
    wide: Path
    """Rank 32."""
    pickled: Path
    """Weights as a pickle."""
    misshapen: Path
    """Made for a narrower base."""


def build(folder: Path) -> TinyLlama:
    """Write the model and the adapters into ``folder``."""
    made = TinyLlama(*(folder / name for name in TinyLlama.__slots__))
    _tokenizer(made.model)
    base = _llama(width=128, seed=1)
    base.save_pretrained(made.model)
    _adapter(base, made.alpha, LINEAR, rank=8, seed=2)
    _adapter(_llama(width=128, seed=1), made.beta, ("q_proj", "v_proj"), rank=4, seed=3, spread=0.6)
    _adapter(_llama(width=128, seed=1), made.wide, LINEAR, rank=32, seed=4)
    _adapter(_llama(width=64, seed=1), made.misshapen, LINEAR, rank=8, seed=5)
    _adapter(_gpt2(), made.foreign, ("c_attn",), rank=8, seed=6)
    _pickle(made.alpha, made.pickled)
    return made


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *letters))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def _llama(*, width: int, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=272,  # of whole 16s: 256 bytes, 5 special tokens, and ids that no text has
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LEN,
        tie_word_embeddings=True,
        initializer_range=0.15,  # ten times the usual: greedy choices must not hang on the last bit
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Only letters and the end are ever likely: half a character would make texts hard to compare.
        weights: Any = model.get_input_embeddings().weight
        weights[_unprintable()] = 0.0
    return model


def _unprintable() -> list[int]:
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    kept = {1} | {len(SPECIAL) + number for number, letter in enumerate(letters) if " " < letter < "\x7f"}
    return [number for number in range(272) if number not in kept]


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=272, n_positions=64, n_embd=32, n_layer=1, n_head=2))


def _adapter(
    base: Any, folder: Path, targets: Sequence[str], *, rank: int, seed: int, spread: float = 0.1
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        fan_in_fan_out=targets == ("c_attn",),
    )
    adapted = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    adapted.save_pretrained(str(folder))


def _pickle(source: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps(json.loads((source / "adapter_config.json").read_text()))
    )
    torch.save(load_file(source / "adapter_model.safetensors"), folder / "adapter_model.bin")
