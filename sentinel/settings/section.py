"""What every section of the settings is made of: frozen models and the value types that they share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """One section of the settings file. Frozen; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # `ignored_categories: [1]` in YAML is a number; the operator meant its text.
        coerce_numbers_to_str=True,
        # The values of a settings file are often secrets; errors name keys only.
        hide_input_in_errors=True,
        str_strip_whitespace=True,
        protected_namespaces=(),
    )


def _split_commas(value: Any) -> Any:
    """Take ``"a, b"`` for ``["a", "b"]``, which is how an environment variable writes a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _strip_slash(value: str) -> str:
    """Check an HTTP address and drop its last slash, so that paths can be appended."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// address")
    return value.rstrip("/")


def _host_and_port(value: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/@]+):(\d{1,5})", value)
    if match is None or not 0 < int(match.group(2)) < 65536:
        raise ValueError("each must be host:port")
    return value


_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


def _topic_name(value: str) -> str:
    if not _TOPIC.fullmatch(value) or value in {".", ".."}:
        raise ValueError("a topic name has 1 to 249 letters, digits, '.', '_' or '-'")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
"""TCP port; 0 lets the system choose one (tests)."""
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Milliseconds = Annotated[int, Field(ge=1)]
Days = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
HttpUrl = Annotated[str, AfterValidator(_strip_slash)]
"""HTTP or HTTPS address without a final slash."""
Topic = Annotated[str, AfterValidator(_topic_name)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Topics = Annotated[tuple[Topic, ...], BeforeValidator(_split_commas), Field(min_length=1)]
Servers = Annotated[
    tuple[Annotated[str, AfterValidator(_host_and_port)], ...],
    BeforeValidator(_split_commas),
    Field(min_length=1),
]
HttpUrls = Annotated[tuple[HttpUrl, ...], BeforeValidator(_split_commas)]
