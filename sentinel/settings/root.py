"""The one settings object, and the list of its keys."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sentinel.settings.dataset import Dataset
from sentinel.settings.evaluation import Evaluation
from sentinel.settings.gate import Gate
from sentinel.settings.model import Guard, PolicySettings, Reprompt, ServedModel
from sentinel.settings.service import (
    Adapters,
    Api,
    Daemon,
    Database,
    Findings,
    Logging,
    MetricsServer,
    PromotionSettings,
    Retention,
    Route,
)
from sentinel.settings.stream import Consumer, Kafka
from sentinel.settings.training import Training, Triggers

FIRST_INSTANCE_PORT = 8010
"""Metrics port of daemon n >= 1 is this plus n."""


class Settings(BaseSettings):
    """Everything that can be configured. Made by `sentinel.settings.load`, handed down as an argument."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, protected_namespaces=()
    )

    kafka: Kafka = Field(default_factory=Kafka, description="The log that events are read from.")
    consumer: Consumer = Field(default_factory=Consumer, description="Limits of the consuming process.")
    guard: Guard = Field(default_factory=Guard, description="The guard model.")
    policy: PolicySettings = Field(default_factory=PolicySettings, description="How its labels are read.")
    reprompt: Reprompt = Field(default_factory=Reprompt, description="The second answer to an unsafe one.")
    served_models: Mapping[str, ServedModel] = Field(
        default_factory=dict, description="Models in service, by a name of your choice."
    )
    database: Database = Field(default_factory=Database, description="PostgreSQL.")
    retention: Retention = Field(default_factory=Retention, description="How long rows are kept.")
    findings: Findings = Field(default_factory=Findings, description="What leaves about a finding.")
    metrics: MetricsServer = Field(
        default_factory=MetricsServer, description="Metrics and health of the daemon."
    )
    api: Api = Field(default_factory=Api, description="The API and the console.")
    route: Route = Field(default_factory=Route, description="The OpenAI-compatible pass-through.")
    logging: Logging = Field(default_factory=Logging, description="Log lines on stderr.")
    triggers: Triggers = Field(default_factory=Triggers, description="What starts a training run.")
    training: Training = Field(default_factory=Training, description="How a training run is made.")
    runs_dir: Path = Field(Path("runs"), description="Folder of runs and reports.")
    adapters: Adapters = Field(default_factory=Adapters, description="Where adapters are kept.")
    dataset: Dataset = Field(default_factory=Dataset, description="How data sets of pairs are made.")
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="How candidates are measured before the gate."
    )
    gate: Gate = Field(default_factory=Gate, description="What lets a candidate pass.")
    promotion: PromotionSettings = Field(
        default_factory=PromotionSettings, description="Who lets an adapter in."
    )
    daemon: Daemon = Field(default_factory=Daemon, description="The process itself.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: the layers are read by `load`, which knows where each value came from.

        The library's own sources ignore unknown variables and cannot say which layer won.
        """
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _port_of_instance(cls, data: Any) -> Any:
        derived = derived_metrics_port(data) if isinstance(data, dict) else None
        if derived is None:
            return data
        return {**data, "metrics": {**_written(data.get("metrics")), "port": derived}}

    @model_validator(mode="after")
    def _public_names_differ(self) -> Self:
        names = [model.public_name for model in self.served_models.values()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"served_models: public_name must differ, used twice: {', '.join(twice)}")
        return self


def derived_metrics_port(data: Mapping[str, Any]) -> int | None:
    """Port of daemon n >= 1, where ``data`` (nested, not yet validated) does not set one; else None."""
    daemon, metrics = (_written(data.get(name)) for name in ("daemon", "metrics"))
    if "port" in metrics or not isinstance(data.get("metrics", {}), (Mapping, BaseModel)):
        return None
    try:
        instance = int(daemon.get("instance", 0))
    except (TypeError, ValueError):
        return None  # named by the field's own validation
    return FIRST_INSTANCE_PORT + instance if instance >= 1 else None


def _written(section: Any) -> dict[str, Any]:
    """What was set in a section, whether it is a mapping or already an object."""
    if isinstance(section, BaseModel):
        return section.model_dump(exclude_unset=True)
    return dict(section) if isinstance(section, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. ``path`` holds ``*`` where the operator chooses the name (served models)."""

    path: tuple[str, ...]
    field: FieldInfo
    types: frozenset[Any]
    """The classes that the value may have, containers by their origin."""

    @property
    def structured(self) -> bool:
        """Whether the value is a mapping, written as YAML or JSON in a variable or a flag."""
        return bool(self.types & {dict, Mapping})

    @property
    def optional(self) -> bool:
        """Whether ``null`` is a value."""
        return type(None) in self.types

    @property
    def is_path(self) -> bool:
        """Whether the value names a file or folder; a credential file of this key is that file itself."""
        return Path in self.types


def nested_models(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it holds one for each name of a mapping."""
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and isinstance(arguments[1], type) and issubclass(arguments[1], BaseModel):
        return arguments[1], True
    return None, False


def _classes(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _classes(typing.get_args(annotation)[0])
    elif origin in {typing.Union, types.UnionType}:
        for argument in typing.get_args(annotation):
            yield from _classes(argument)
    else:
        yield origin or annotation


def _walk(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        inner, mapped = nested_models(field)
        if inner is not None:
            yield from _walk(inner, (*prefix, name, "*") if mapped else (*prefix, name))
        else:
            yield Key((*prefix, name), field, frozenset(_classes(field.annotation)))


@cache
def keys() -> dict[tuple[str, ...], Key]:
    """Every setting, by path, in the order of the settings file."""
    return {key.path: key for key in _walk(Settings, ())}
