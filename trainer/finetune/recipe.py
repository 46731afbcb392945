"""A fine-tuning recipe: what `configs/train/*.yaml` may say, and the combinations that are refused before any work."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sentinel.errors import ConfigurationError
from sentinel.resources import DEFAULT_RANK, recipe_names, recipe_path

PREFERENCE_LOSSES: Final = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "apo_zero", "sigmoid_norm")
"""Of TRL's DPO losses, those that tell the chosen from the rejected side; `sft` is added to one of them."""

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Above = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Lora(_Part):
    """The adapter (LoRA, arXiv 2106.09685)."""

    rank: Positive = Field(DEFAULT_RANK, description="Rank of every pair of factors.")
    alpha: Above = Field(32, description="Scale of the update: alpha / rank.")
    dropout: Share = Field(0.0, description="Dropout before the factors; 0 keeps a run reproducible.")
    target_modules: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="Names of linear layers, or auto: all of the base's family."
    )
    max_rank: Positive = Field(64, description="Greatest rank that the serving engine takes (max_lora_rank).")


class Preference(_Part):
    """DPO (arXiv 2305.18290) and what is added to it."""

    beta: Above = Field(0.1, description="Strength of the tie to the base.")
    loss: dict[str, Above] = Field(
        {"sigmoid": 1.0, "sft": 1.0},
        description="Weight of each term; sft holds the chosen side's probability.",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Share of pairs expected to be labelled the wrong way round (robust, exo_pair)."
    )


class Optimizer(_Part):
    """AdamW with a warm-up and a cosine down to zero."""

    learning_rate: Above = Field(1e-4, description="Peak learning rate.")
    batch_size: Positive = Field(16, description="Rows of one step on one device.")
    accumulation: Positive = Field(1, description="Batches summed into one step.")
    epochs: Above = Field(1.0, description="Passes over the training rows.")
    max_steps: Positive | None = Field(None, description="Steps at most, in place of epochs.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(5, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decay of the factors.")
    clip: Above = Field(1.0, description="Greatest norm of the gradient.")


class Checkpoints(_Part):
    """When the run is looked at, and by what its checkpoint is chosen."""

    every: Positive = Field(10, description="Steps between two checkpoints; the last step is always one.")
    keep: Positive = Field(2, description="Latest checkpoints kept beside the best.")
    patience: Positive | None = Field(
        None, description="Checkpoints without a better one after which the run ends; null: never."
    )
    prompts: Annotated[int, Field(ge=0)] = Field(
        96, description="Validation prompts answered at each; 0: the validation loss chooses."
    )
    max_new_tokens: Positive = Field(128, description="Length of those answers at most.")
    batch_size: Positive = Field(32, description="Answers generated at once.")


class Limits(_Part):
    """What ends a run early: signs of displacement and collapse that the loss does not show."""

    chosen_fall: Above = Field(
        20.0,
        description="Nats that the chosen answer's log-probability may lie below the base's, on average.",
    )
    margin: Above = Field(
        10.0, description="Greatest reward margin (beta included); beyond it the tie is torn."
    )
    length: tuple[Above, Above] = Field(
        (0.25, 4.0), description="Least and greatest length of answers beside the chosen sides."
    )


class Hardware(_Part):
    """Where and how it is computed."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of the base's weights and of products.")
    threads: Positive = Field(1, description="Threads on a CPU.")
    gradient_checkpointing: bool = Field(False, description="Less memory for a fifth more time.")


class Recipe(_Part):
    """One way to make an adapter."""

    method: Literal["dpo", "sft"] = Field("dpo", description="dpo: pairs; sft: the chosen sides alone.")
    base: str = Field("", description="The base that it was written for, for people.")
    family: str | None = Field(None, description="model_type of the base; a base of another is refused.")
    quantization: Literal["none", "nf4"] = Field("none", description="nf4: QLoRA (arXiv 2305.14314).")
    chat_template: Literal["own", "plain"] = Field(
        "own", description="plain: 'User: … Assistant: …', for bases that come without a template."
    )
    max_length: Positive = Field(
        1024, description="Tokens of prompt and answer; longer rows are cut at the end."
    )
    merge: bool = Field(False, description="Also write base and adapter as one model.")
    lora: Lora = Lora()
    preference: Preference = Preference()
    optimizer: Optimizer = Optimizer()
    checkpoints: Checkpoints = Checkpoints()
    limits: Limits = Limits()
    hardware: Hardware = Hardware()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.quantization == "nf4" and self.merge:
            raise ValueError(
                "merge: an adapter fitted to a 4-bit base does not fit the full-precision base exactly; "
                "set merge: false, or quantization: none"
            )
        if self.lora.rank > self.lora.max_rank:
            raise ValueError(f"lora.rank {self.lora.rank} is above lora.max_rank {self.lora.max_rank}")
        if self.method == "sft" and "preference" in self.model_fields_set:
            raise ValueError("preference: method sft has no rejected side; leave the section out")
        if self.method == "dpo":
            _check_loss(self.preference)
        if self.optimizer.max_steps is not None and "epochs" in self.optimizer.model_fields_set:
            raise ValueError("optimizer: give epochs or max_steps, not both")
        if self.limits.length[0] >= self.limits.length[1]:
            raise ValueError("limits.length: the least must be below the greatest")
        if self.lora.target_modules == ():
            raise ValueError("lora.target_modules: name at least one, or auto")
        return self


def _check_loss(preference: Preference) -> None:
    unknown = [name for name in preference.loss if name not in {*PREFERENCE_LOSSES, "sft"}]
    if unknown:
        raise ValueError(f"preference.loss: {unknown[0]} is none of {', '.join((*PREFERENCE_LOSSES, 'sft'))}")
    if not set(preference.loss) & set(PREFERENCE_LOSSES):
        raise ValueError("preference.loss: sft alone needs no pairs: set method: sft")
    if preference.label_smoothing and not set(preference.loss) & {"robust", "exo_pair"}:
        raise ValueError("preference.label_smoothing: only robust and exo_pair use it")


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a name in ``configs/train``, or of a file.

    Raises:
        ConfigurationError: there is none, or it says something unknown or impossible.
    """
    return parse_recipe(_text(name), str(name))


def parse_recipe(text: str, origin: str) -> Recipe:
    """The recipe that a YAML text holds; ``origin`` names it in errors.

    Raises:
        ConfigurationError: it says something unknown or impossible.
    """
    try:
        written = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"recipe {origin} is not YAML: {error}") from error
    if not isinstance(written, dict):
        raise ConfigurationError(f"recipe {origin} must be a mapping of keys")
    problems = list(_unknown(written, Recipe, ()))
    if problems:
        raise ConfigurationError(f"recipe {origin}: {'; '.join(problems)}")
    try:
        return Recipe.model_validate(written)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, one['loc'])) + ': ' if one['loc'] else ''}{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise ConfigurationError(f"recipe {origin}: {found}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value spelled out; `parse_recipe` gives an equal one back."""
    whole = recipe.model_dump(mode="json")
    if recipe.method == "sft":
        del whole["preference"]
    if recipe.optimizer.max_steps is not None:
        del whole["optimizer"]["epochs"]
    return yaml.safe_dump(whole, sort_keys=False)


def _text(name: str | Path) -> str:
    try:
        return recipe_path(name).read_text("utf-8")
    except OSError as error:
        near = difflib.get_close_matches(str(name), recipe_names(), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigurationError(
            f"no recipe {name}: neither a file nor one of {', '.join(recipe_names())}{hint}"
        ) from error


def _unknown(written: Mapping[Any, Any], model: type[BaseModel], at: tuple[str, ...]) -> list[str]:
    """A sentence for each key that does not exist, with the known key that looks most like it."""
    known = _keys(Recipe)
    problems: list[str] = []
    for key, value in written.items():
        path = (*at, str(key))
        if key not in model.model_fields:
            nearest = max(
                known,
                key=lambda dotted: (
                    difflib.SequenceMatcher(None, dotted.rpartition(".")[2], path[-1]).ratio()
                    + 0.3 * difflib.SequenceMatcher(None, dotted, ".".join(path)).ratio()
                ),
            )
            problems.append(f"unknown key {'.'.join(path)}; the nearest known one is {nearest}")
            continue
        part = _section(model.model_fields[key].annotation)
        if part is not None and isinstance(value, dict):
            problems += _unknown(value, part, path)
    return problems


def _keys(model: type[BaseModel], at: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        part = _section(field.annotation)
        found += [f"{at}{name}"] if part is None else [f"{at}{name}", *_keys(part, f"{at}{name}.")]
    return found


def _section(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) in {Union, UnionType}:
        return next((found for one in get_args(annotation) if (found := _section(one))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
