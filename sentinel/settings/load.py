"""Read all layers, check everything in one pass, and make the settings object.

Precedence: flag, environment, credential file, YAML file, default. Nothing else reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sentinel.errors import ConfigurationError
from sentinel.settings.document import Layer, Reading, read_yaml
from sentinel.settings.layers import CONFIG_VARIABLE, read_credentials, read_environment, read_flags
from sentinel.settings.names import holds_names
from sentinel.settings.root import Settings, derived_metrics_port

DEFAULT_FILE: Final = Path("/etc/sentinel/sentinel.yaml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and how they came about."""

    settings: Settings
    origins: Mapping[tuple[str, ...], str]
    """Where each value that is not a default came from, by path."""
    config_file: Path | None
    notes: tuple[str, ...]
    """Remarks for people, for example a credential file whose name is nearly a key."""
    credentials: Path | None = None
    """Folder of credential files, where the service manager named one."""


def load(
    config: Path | None = None,
    flags: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    default_file: Path = DEFAULT_FILE,
) -> Loaded:
    """Read and check the settings.

    ``config`` is the file of ``--config``; ``flags`` are ``section.key=value``. Blocks on file reads.
    Raises `ConfigurationError` that lists every problem with its origin, never a value.
    """
    environ = os.environ if environ is None else environ
    reading = Reading()
    file = _config_file(config, environ, default_file)
    merged: Layer = read_yaml(file, reading) if file is not None else {}
    environment = read_environment(environ, _names(merged), reading)
    named = environ.get("CREDENTIALS_DIRECTORY")
    credentials = Path(named) if named else None
    if credentials is not None:
        merged.update(read_credentials(credentials, _names({**merged, **environment}), reading))
    merged.update(environment)
    merged.update(read_flags(flags, reading))

    raw: dict[str, Any] = {}
    for path, value in merged.items():
        place = raw
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value.raw
    origins = {path: value.origin for path, value in merged.items()}
    try:
        settings = Settings(**raw)
    except ValidationError as error:
        reading.problems.extend(_explain(error, origins))
        settings = None
    if reading.problems or settings is None:
        raise ConfigurationError(_message(reading.problems))
    if derived_metrics_port(raw) is not None:
        origins["metrics", "port"] = "daemon.instance"
    return Loaded(settings, origins, file, tuple(reading.notes), credentials)


def _config_file(config: Path | None, environ: Mapping[str, str], default_file: Path) -> Path | None:
    if config is not None:
        return config
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    try:
        return default_file if default_file.exists() else None
    except OSError:
        return default_file  # a folder that may not be searched: the reader names the cause


def _names(layer: Layer) -> tuple[str, ...]:
    """Names of served models seen so far."""
    return tuple(dict.fromkeys(path[1] for path in layer if holds_names(path[:1])))


def _explain(error: ValidationError, origins: Mapping[tuple[str, ...], str]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        path = tuple(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        origin = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
        lines.append(f"{'.'.join(path) + ': ' if path else ''}{message}{f' ({origin})' if origin else ''}")
    return lines


def _message(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n".join(
        (f"{len(problems)} problems in the settings:", *(f"  {problem}" for problem in problems))
    )


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """What systemd tells a service through its environment (sd_notify(3), sd_watchdog_enabled(3))."""

    notify_socket: str | None
    watchdog_s: float | None
    """Seconds within which a keep-alive is expected; None where none is."""


def service_manager(environ: Mapping[str, str] | None = None) -> ServiceManager:
    """Read NOTIFY_SOCKET and WATCHDOG_USEC, the latter only where it is meant for this process."""
    environ = os.environ if environ is None else environ
    watchdog: float | None = None
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if usec.isdigit() and int(usec) > 0 and (not pid or pid == str(os.getpid())):
        watchdog = int(usec) / 1e6
    return ServiceManager(environ.get("NOTIFY_SOCKET") or None, watchdog)
