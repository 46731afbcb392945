"""The base model: where it lies, what its weights hash to, and how it is loaded for training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sentinel.errors import ConfigurationError

if TYPE_CHECKING:
    from peft import LoraConfig

    from trainer.finetune.recipe import Recipe

PLAIN_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{- 'Assistant: ' + message['content'] + eos_token + '\n' -}}"
    "{%- elif message['role'] == 'system' -%}{{- message['content'] + '\n\n' -}}"
    "{%- else -%}{{- 'User: ' + message['content'] + '\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)
"""For bases without a chat template of their own (GPT-2, Phi-2)."""


def base_folder(base: str | Path) -> Path:
    """The folder of a base that is one, or of a Hub name in the local cache (fetched where it is not there).

    Raises:
        ConfigurationError: neither a folder nor to be had, or without weights in safetensors.
    """
    folder = Path(base)
    if not folder.is_dir():
        folder = _snapshot(str(base))
    if not weight_files(folder):
        raise ConfigurationError(f"{folder} holds no safetensors: a pickle could run code and is not loaded")
    return folder


def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigurationError(
            f"no base {name}: neither a folder nor a model of the Hub ({error})"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The weights of a model's folder, by name."""
    return sorted(folder.glob("*.safetensors"))


def base_sha256(folder: Path) -> str:
    """sha256 of a model's weights: of the file where there is one, else of the list of names and hashes."""
    from sentinel.digests import sha256_of

    files = weight_files(folder)
    if len(files) == 1:
        return sha256_of(files[0])
    lines = "".join(f"{path.name} {sha256_of(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_hardware(recipe: Recipe) -> str:
    """The device that the recipe means, ``cpu`` or ``cuda``.

    Raises:
        ConfigurationError: this machine lacks it, or cannot compute in the recipe's precision.
    """
    import torch

    device = recipe.hardware.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("hardware.device: no GPU is seen here; set device: cpu, or train elsewhere")
    if recipe.hardware.precision == "bf16":
        able = (
            torch.cuda.is_bf16_supported()
            if device == "cuda"
            else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        if not able:
            raise ConfigurationError(f"hardware.precision: this {device} cannot compute in bf16; set fp32")
    return device


def load_tokenizer(folder: Path, recipe: Recipe) -> Any:
    """The base's tokenizer, with a chat template and a token to pad with.

    Raises:
        ConfigurationError: it has no template and the recipe asks for its own.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if recipe.chat_template == "plain":
        tokenizer.chat_template = PLAIN_TEMPLATE
    if not tokenizer.chat_template:
        raise ConfigurationError(f"{folder} has no chat template: set chat_template: plain in the recipe")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, recipe: Recipe, device: str) -> Any:
    """The base in the recipe's precision, 4-bit where it says so; safetensors only, no code of the folder's own.

    Raises:
        ConfigurationError: it is of another family than the recipe's.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if recipe.family is not None and config.model_type != recipe.family:
        raise ConfigurationError(
            f"the recipe is for the family {recipe.family}, {folder} is a {config.model_type}: take another recipe"
        )
    dtype = torch.bfloat16 if recipe.hardware.precision == "bf16" else torch.float32
    further: dict[str, Any] = {}
    if recipe.quantization == "nf4":
        further["device_map"] = {"": "cpu" if device == "cpu" else _local_gpu()}
        further["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif device == "cpu":
        # The fastest at the sizes that a CPU trains.
        further["attn_implementation"] = "eager"
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True, **further
    )
    model.config.use_cache = False
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack the weights in the first evaluation pass, to a layout through whose
            # product no gradient flows: later steps would silently train on wrong gradients.
            module.support_avx512bf16_for_cpu = False
    return model


def _local_gpu() -> int:
    """The GPU of this process: under ``accelerate launch`` each has its own."""
    from accelerate import PartialState

    return int(PartialState().local_process_index)


def lora_config(model: Any, recipe: Recipe) -> LoraConfig:
    """Fresh LoRA factors on the resolved layers of a loaded base; nothing else is trained.

    Raises:
        ConfigurationError: a target module met no layer.
    """
    from peft import LoraConfig

    from trainer.finetune.families import resolve

    targets = resolve(model, recipe.lora)
    return LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,  # type: ignore[arg-type] # a float scales as well
        lora_dropout=recipe.lora.dropout,
        target_modules=list(targets.names),
        fan_in_fan_out=targets.fan_in_fan_out,
        bias="none",
        task_type="CAUSAL_LM",
    )


def four_bit_layers(model: Any) -> int:
    """How many layers hold 4-bit weights."""
    return sum(type(module).__name__ == "Linear4bit" for module in model.modules())
