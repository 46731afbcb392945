"""Settings and their origins, the files that hold secrets, the folder of runs, the systemd unit."""

from __future__ import annotations

import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon.doctor.report import Finding, fail, ok, warn

if TYPE_CHECKING:
    from sentinel.settings import Loaded

UNIT_FOLDERS: Final = tuple(
    map(
        Path,
        (
            "/etc/systemd/system",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ),
    )
)
UNIT: Final = "sentinel@.service"

LEAST_FREE_BYTES: Final = 1 << 30
"""A data set with its adapter takes some hundred megabytes; the next run must not be the one that fails."""


def check_settings(loaded: Loaded) -> list[Finding]:
    """That they are valid is known by now: where they came from, and remarks of the reader."""
    kinds = Counter(_kind(origin) for origin in loaded.origins.values())
    file = str(loaded.config_file) if loaded.config_file is not None else "no settings file"
    counted = ", ".join(f"{number} from {kind}" for kind, number in sorted(kinds.items())) or "all defaults"
    return [
        ok("settings", f"valid; {file}; {counted}"),
        *(warn("settings", note, "see `sentinel settings show --changed`") for note in loaded.notes),
        *_exposed_secrets(loaded),
    ]


def check_secret_files(loaded: Loaded) -> list[Finding]:
    """Files that hold secrets must not be readable by everybody."""
    files = list(_secret_files(loaded))
    found = [finding for what, path in files for finding in _check_mode(what, path)]
    if not found and files:
        return [ok("secret files", f"{len(files)} file(s), none readable by others")]
    return found


def check_disk(
    folder: Path, *, least_free: int = LEAST_FREE_BYTES, usage: Callable[[Path], Any] = shutil.disk_usage
) -> list[Finding]:
    """Room for runs and reports, on the nearest folder that exists."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = int(usage(place).free)
    except OSError as error:
        return [
            fail("disk", f"{place}: {error.strerror}", "set runs_dir to a folder that the service may write")
        ]
    if free < least_free:
        return [
            warn(
                "disk",
                f"{free / 2**20:,.0f} MiB are free for runs_dir {folder}",
                f"make room, at least {least_free / 2**20:,.0f} MiB, or set runs_dir to a larger volume",
            )
        ]
    return [ok("disk", f"{free / 2**30:,.1f} GiB are free for runs_dir {folder}")]


def check_unit(folders: Iterable[Path] = UNIT_FOLDERS) -> list[Finding]:
    """Whether systemd knows the service; it need not."""
    for folder in folders:
        if (folder / UNIT).is_file():
            return [ok("systemd", f"{folder / UNIT} is installed")]
    return [ok("systemd", f"{UNIT} is not installed; `sentinel check --write-units DIR` writes it")]


def secrets_of(settings: Any) -> list[str]:
    """Every secret value of a settings object, for masking."""
    from pydantic import BaseModel, SecretStr
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            if "://" in text:
                with suppress(ArgumentError):
                    text = make_url(text).password or ""
            found.append(text)
        elif isinstance(value, BaseModel):
            for name in type(value).model_fields:
                walk(getattr(value, name))
        elif isinstance(value, Mapping):
            for inner in value.values():
                walk(inner)

    walk(settings)
    return [text for text in found if text]


def _kind(origin: str) -> str:
    """``environment SENTINEL_X`` is ``environment``; a file with a line is ``the file``."""
    first = origin.split(" ", 1)[0]
    names = {"environment": "the environment", "credential": "credential files", "flag": "flags"}
    return names.get(first, "other settings" if first == "daemon.instance" else "the settings file")


def _secret_origins(loaded: Loaded) -> list[tuple[str, str]]:
    """Settings with a secret in them, and where each came from."""
    from pydantic import SecretStr
    from sqlalchemy.engine import make_url

    from sentinel.settings.root import keys

    known = keys()
    found = []
    for path, origin in loaded.origins.items():
        key = known.get(path) or known.get((*path[:1], "*", *path[2:]))
        if key is None or SecretStr not in key.types:
            continue
        if (
            path == ("database", "url")
            and not make_url(loaded.settings.database.url.get_secret_value()).password
        ):
            continue
        found.append((".".join(path), origin))
    return found


def _exposed_secrets(loaded: Loaded) -> list[Finding]:
    return [
        warn(
            "settings",
            f"{name} is given as a flag, which every user sees in the list of processes",
            "put it into a credential file, or into an environment variable",
        )
        for name, origin in _secret_origins(loaded)
        if origin.startswith("flag ")
    ]


def _secret_files(loaded: Loaded) -> Iterable[tuple[str, Path]]:
    origins = _secret_origins(loaded)
    if loaded.config_file is not None and any(_kind(origin) == "the settings file" for _, origin in origins):
        yield "the settings file with secrets", loaded.config_file
    if loaded.credentials is not None:
        for name, origin in origins:
            if origin.startswith("credential "):
                yield f"the credential of {name}", loaded.credentials / origin.removeprefix("credential ")
    if (key := loaded.settings.kafka.security.key_file) is not None:
        yield "kafka.security.key_file", key


def _check_mode(what: str, path: Path) -> list[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return [fail("secret files", f"{what}, {path}: {error.strerror}", "correct the path, or its owner")]
    if mode & 0o007:
        return [
            fail(
                "secret files",
                f"{what}, {path}, is open to every user (mode {mode:04o})",
                f"chmod 0600 {path}",
            )
        ]
    if mode & 0o020:
        return [warn("secret files", f"{what}, {path}, can be written by its group", f"chmod g-w {path}")]
    return []
