"""The layers: YAML file, credential files, environment, flags. Each reader notes every problem it meets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import SecretStr

from sentinel.settings.names import chosen_name, find_key, holds_names, is_section, nearest, variable_form
from sentinel.settings.root import Key, keys

PREFIX: Final = "SENTINEL_"
CONFIG_VARIABLE: Final = "SENTINEL_CONFIG"
_NOT_OURS: Final = re.compile(r"SENTINEL_(CONFIG|TEST_.*)")
_KUBERNETES: Final = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with ``sentinel``."""
_CREDENTIAL_LIMIT: Final = 1_048_576
"""Bytes; what systemd itself allows for all credentials of a unit."""
_TEXT_TYPES: Final = frozenset({str, SecretStr, Path, type(None)})


@dataclass(frozen=True, slots=True)
class Value:
    """A value as written, and where."""

    raw: Any
    origin: str


Layer = dict[tuple[str, ...], Value]


@dataclass(slots=True)
class Reading:
    """What one pass over all layers finds."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Things that look wrong but may be meant."""

    def unknown(self, path: tuple[str, ...], origin: str) -> None:
        """Note a key that does not exist. Its value is never part of the message."""
        self.problems.append(f"{'.'.join(path)}: unknown key ({origin}); did you mean {nearest(path)}?")


class _Loader(yaml.SafeLoader):
    """SafeLoader whose nodes keep their lines."""


def _line(origin: str, node: yaml.Node, *, numbered: bool) -> str:
    return f"{origin}:{node.start_mark.line + 1}" if numbered else origin


def _leaf(loader: _Loader, node: yaml.Node, key: Key) -> Any:
    # YAML would read `version: 1.10`, `password: 0123` and `name: no` as numbers and a boolean.
    if isinstance(node, yaml.ScalarNode) and key.types <= _TEXT_TYPES and not node.tag.endswith(":null"):
        return node.value
    return loader.construct_object(node, deep=True)


def _read_mapping(
    loader: _Loader, node: yaml.Node, at: tuple[str, ...], origin: str, reading: Reading, *, numbered: bool
) -> Layer:
    layer: Layer = {}
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
        return layer
    if not isinstance(node, yaml.MappingNode):
        where = _line(origin, node, numbered=numbered)
        reading.problems.append(
            f"{'.'.join(at) or 'the file'}: must be a mapping of keys to values ({where})"
        )
        return layer
    seen: set[str] = set()
    for key_node, _ in node.value:
        name = str(key_node.value)
        # PyYAML takes the last of two equal keys without a word: half of a section would be ignored.
        if name in seen and name != "<<":
            where = _line(origin, key_node, numbered=numbered)
            reading.problems.append(f"{'.'.join((*at, name))}: written twice ({where})")
        seen.add(name)
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        path = (*at, str(key_node.value))
        where = _line(origin, key_node, numbered=numbered)
        if (key := find_key(path)) is not None:
            layer[path] = Value(_leaf(loader, value_node, key), where)
        elif is_section(path):
            layer.update(_read_mapping(loader, value_node, path, origin, reading, numbered=numbered))
        else:
            reading.unknown(path, where)
    return layer


def _compose(text: str, at: tuple[str, ...], origin: str, reading: Reading, *, numbered: bool) -> Layer:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        return _read_mapping(loader, node, at, origin, reading, numbered=numbered)
    except yaml.MarkedYAMLError as error:
        # The library's message quotes the line, which may hold a password.
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark and numbered else ""
        reading.problems.append(
            f"{origin}: not valid YAML: {error.problem or 'syntax error'} {place}".rstrip()
        )
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reading.problems.append(f"{origin}: not valid YAML ({type(error).__name__})")
    finally:
        loader.dispose()
    return {}


def read_yaml(path: Path, reading: Reading) -> Layer:
    """The settings file; origins are ``path:line``."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reading.problems.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        reading.problems.append(f"{path}: is not UTF-8 text")
    else:
        return _compose(text, (), str(path), reading, numbered=True)
    return {}


def _assign(layer: Layer, path: tuple[str, ...], text: str, origin: str, reading: Reading) -> None:
    """Put one written value, a whole section as YAML or JSON included, into the layer."""
    key = find_key(path)
    if key is None:
        if is_section(path):
            layer.update(_compose(text, path, origin, reading, numbered=False))
        else:
            reading.unknown(path, origin)
    elif key.optional and text in {"null", "~"}:
        layer[path] = Value(None, origin)
    elif key.structured or (tuple in key.types and text.lstrip().startswith("[")):
        layer[path] = Value(_parsed(text, origin, reading), origin)
    else:
        layer[path] = Value(text, origin)


def _parsed(text: str, origin: str, reading: Reading) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        reading.problems.append(f"{origin}: not valid YAML or JSON")
        return None


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
