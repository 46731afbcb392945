"""The layers above the file: credential files, environment, flags. Each notes every problem it meets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from sentinel.settings.document import Layer, Reading, Value, parse_value, read_text
from sentinel.settings.names import chosen_name, find_key, holds_names, is_section, variable_form
from sentinel.settings.root import keys

PREFIX: Final = "SENTINEL_"
CONFIG_VARIABLE: Final = "SENTINEL_CONFIG"
_NOT_OURS: Final = re.compile(r"SENTINEL_(CONFIG|TEST_.*)")
_KUBERNETES: Final = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with ``sentinel``."""
_CREDENTIAL_LIMIT: Final = 1_048_576
"""Bytes; what systemd itself allows for all credentials of a unit."""


def _assign(layer: Layer, path: tuple[str, ...], text: str, origin: str, reading: Reading) -> None:
    """Put one written value, a whole section as YAML or JSON included, into the layer."""
    key = find_key(path)
    if key is None:
        if is_section(path):
            layer.update(read_text(text, path, origin, reading, numbered=False))
        else:
            reading.unknown(path, origin)
    elif key.optional and text in {"null", "~"}:
        layer[path] = Value(None, origin)
    elif key.structured or (tuple in key.types and text.lstrip().startswith("[")):
        layer[path] = Value(parse_value(text, origin, reading), origin)
    else:
        layer[path] = Value(text, origin)


def _resolve(parts: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Give the operator's names in a variable their own spelling."""
    if len(parts) > 1 and holds_names((parts[0],)):
        return (parts[0], chosen_name(parts[1], names), *parts[2:])
    return tuple(parts)


def read_environment(environ: Mapping[str, str], names: Iterable[str], reading: Reading) -> Layer:
    """Variables ``SENTINEL_<SECTION>__<KEY>``; an empty one is not set.

    ``names`` are those of served models seen so far.
    """
    layer: Layer = {}
    known = tuple(names)
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or _NOT_OURS.fullmatch(variable) or not text:
            continue
        rest = variable[len(PREFIX) :]
        if "__" not in rest and _KUBERNETES.fullmatch(rest) and (not rest.endswith("_PORT") or "://" in text):
            continue
        path = _resolve(rest.lower().split("__"), known)
        _assign(layer, path, text, f"environment {variable}", reading)
    return layer


def read_flags(flags: Sequence[str], reading: Reading) -> Layer:
    """Flags ``section.key=value``; names of served models may contain dots."""
    layer: Layer = {}
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            reading.problems.append(
                f"--set {name.split()[0] if name.split() else ''}: must be section.key=value"
            )
            continue
        parts = tuple(name.strip().split("."))
        if len(parts) > 3 and holds_names(parts[:1]):
            parts = (parts[0], ".".join(parts[1:-1]), parts[-1])
        _assign(layer, parts, text, f"flag --set {name.strip()}", reading)
    return layer


def credential_names(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """From file names in the credentials directory to settings: ``database_url`` is ``database.url``."""
    found: dict[str, tuple[str, ...]] = {}
    for path in keys():
        if "*" not in path:
            found["_".join(path)] = path
            continue
        for name in names:
            concrete = tuple(name if part == "*" else part for part in path)
            found["_".join(variable_form(part) for part in concrete)] = concrete
    return found


def read_credentials(directory: Path, names: Iterable[str], reading: Reading) -> Layer:
    """Credential files of the service manager, one for each key.

    Source: systemd.exec(5), LoadCredential=. For a key that names a file (``kafka.security.key_file``) the
    value is the path of the credential itself. A file that belongs to no key is left alone, since units also
    pass other things this way.
    """
    layer: Layer = {}
    known = credential_names(tuple(names))
    try:
        files = sorted(directory.iterdir())
    except OSError as error:
        reading.problems.append(f"{directory}: credentials cannot be listed: {error.strerror}")
        return layer
    for file in files:
        origin = f"credential {file.name}"
        path = known.get(file.name)
        if path is None:
            if close := difflib.get_close_matches(file.name, known, n=1, cutoff=0.8):
                reading.notes.append(f"{origin} belongs to no key; did you mean {close[0]}?")
            continue
        key = find_key(path)
        if key is not None and key.is_path:
            layer[path] = Value(str(file), origin)
            continue
        try:
            if file.stat().st_size > _CREDENTIAL_LIMIT:
                reading.problems.append(f"{'.'.join(path)}: larger than {_CREDENTIAL_LIMIT} bytes ({origin})")
                continue
            text = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reading.problems.append(f"{'.'.join(path)}: cannot be read: {type(error).__name__} ({origin})")
            continue
        _assign(layer, path, text, origin, reading)
    return layer
