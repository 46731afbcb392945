"""The settings file, and values written as YAML or JSON elsewhere, read with lines and without guesses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import SecretStr

from sentinel.settings.names import find_key, is_section, nearest
from sentinel.settings.root import Key

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


def read_text(text: str, at: tuple[str, ...], origin: str, reading: Reading, *, numbered: bool) -> Layer:
    """A section (``at``; the whole file where empty) written as YAML. ``numbered``: origins carry lines."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
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
        if loader is not None:
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
        return read_text(text, (), str(path), reading, numbered=True)
    return {}


def parse_value(text: str, origin: str, reading: Reading) -> Any:
    """A list or mapping written as YAML or JSON in a variable or a flag; None where it is neither."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        reading.problems.append(f"{origin}: not valid YAML or JSON")
        return None
