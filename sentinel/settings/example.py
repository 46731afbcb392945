"""The example file, made from the settings themselves: every key, its default, and what it means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sentinel.settings.root import Settings, nested_models
from sentinel.settings.show import shown

_HEAD: Final = """\
# Settings of Sentinel Loop: every key with its default. Made by `sentinel settings example`.
#
# Read from --config FILE, else $SENTINEL_CONFIG, else /etc/sentinel/sentinel.yaml where it exists. Each key can
# also be given as a flag (--set kafka.group_id=NAME), as a variable (SENTINEL_KAFKA__GROUP_ID=NAME), or as a
# systemd credential (LoadCredential=kafka_group_id:/PATH; for a key that names a file, the credential is that
# file). Precedence: flag, variable, credential, file, default. An unknown key is an error.
#
# `sentinel settings show` prints what is in effect, and where it came from. Take the `#` away from what you
# change; the rest follows the release's defaults.
"""
_SAMPLES: Final[Mapping[str, str]] = {"public_name": "assistant", "base": "Qwen/Qwen3-0.6B"}
"""Values for the keys of a served model that have no default."""
_MODEL_NAME: Final = "assistant"


def example() -> str:
    """The YAML file with every key in comments: one that is copied whole pins no default and no port."""
    return "\n".join([_HEAD.rstrip(), *_section(Settings, 0)]) + "\n"


def _section(model: type[BaseModel], depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in model.model_fields.items():
        if depth == 0:
            yield ""
        yield f"{pad}# {field.description}"
        inner, mapped = nested_models(field)
        if inner is None:
            yield f"{pad}#{name}: {_plain(field, name)}"
            continue
        yield f"{pad}{name}:"
        if mapped:
            yield f"{pad}  #{_MODEL_NAME}:"
        yield from _section(inner, depth + 2 if mapped else depth + 1)


def _plain(field: FieldInfo, name: str) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        value = _SAMPLES[name]
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    # JSON is YAML, and leaves nothing to YAML's guesses about words and numbers.
    return json.dumps(shown(value), ensure_ascii=False)
