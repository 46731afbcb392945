"""The adapters that are loaded: names, layers switched in the model, and requests that still use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from sentinel.embedded.model_server.adapter_files import check_adapter
from sentinel.embedded.model_server.errors import AdapterError


@dataclass(slots=True, eq=False)
class Adapter:
    """One loaded adapter."""

    name: str
    path: Path
    key: str
    """Its name within the model: PEFT allows no dots, and a name that is loaded again gets a new one."""
    in_use: int = 0
    """Sequences that were submitted and are not over; counted in the event loop."""
    released: Callable[[], None] = lambda: None
    """Called in the event loop whenever a sequence is over."""


class AdaptedModel:
    """The model with its adapters. All methods belong to the model's thread."""

    def __init__(self, model: Any, *, max_rank: int) -> None:
        self._base = model
        self._peft: Any = None
        self._layers: list[Any] = []
        self._active: str | None = None
        self._numbers = count(1)
        self._max_rank = max_rank
        self._linear = linear_layers(model)

    @property
    def model(self) -> Any:
        """What is called for logits; LoRA layers are put into it in place."""
        return self._base

    def load(self, name: str, path: Path) -> Adapter:
        """Check the folder and add it. Raises AdapterError, and then nothing has changed."""
        from peft import PeftModel
        from safetensors import SafetensorError

        check_adapter(path, self._linear, max_rank=self._max_rank)
        key = f"adapter_{next(self._numbers)}"
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._base, str(path), adapter_name=key)
            else:
                self._peft.load_adapter(str(path), adapter_name=key, is_trainable=False)
        except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            if self._peft is not None and key in self._peft.peft_config:
                self._peft.delete_adapter(key)
            raise AdapterError(f"the adapter cannot be loaded: {error}", param="lora_path") from error
        finally:
            self._find_layers()
        return Adapter(name, path, key)

    def delete(self, adapter: Adapter) -> None:
        """Take the adapter's weights out of the model."""
        for layer in self._layers:
            # Else PEFT puts another adapter in its place, with a warning.
            layer.set_adapter([], inference_mode=True)
        self._peft.delete_adapter(adapter.key)
        self._find_layers()

    def activate(self, adapter: Adapter | None) -> None:
        """Make the next forward passes use ``adapter``, or the base alone."""
        wanted = None if adapter is None else adapter.key
        if wanted == self._active:
            return
        for layer in self._layers:
            if wanted is None or wanted not in layer.lora_A:
                layer.enable_adapters(enabled=False)
            else:
                layer.enable_adapters(enabled=True)
                layer.set_adapter(wanted, inference_mode=True)
        self._active = wanted

    def _find_layers(self) -> None:
        from peft.tuners.lora import LoraLayer

        self._layers = [module for module in self._base.modules() if isinstance(module, LoraLayer)]
        for layer in self._layers:
            layer.enable_adapters(enabled=False)
        self._active = None


def linear_layers(model: Any) -> Mapping[str, tuple[int, int]]:
    """Outputs and inputs of each linear layer of a model without adapters, by its name."""
    import torch

    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
