"""What a subcommand gets from the command line, in a layer that every package may import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from sentinel.errors import EX_CONFIG, CommandError, ConfigurationError, SentinelError

if TYPE_CHECKING:
    from sentinel.settings import Loaded, Settings

EX_USAGE = 2
"""Exit status of a command that was asked for something that it cannot do, as for a wrong option."""

T = TypeVar("T")


class _Context(Protocol):
    """The part of a `typer.Context` that is read here."""

    def find_object(self, object_type: type[T]) -> T | None:
        """Nearest object of that type, from this command up to the program."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options that stand for all subcommands."""

    config: Path | None = None
    flags: tuple[str, ...] = ()
    debug: bool = False

    def load(self) -> Loaded:
        """Read the settings as asked for. Raises `ConfigurationError` with every problem."""
        from sentinel.settings import load

        return load(self.config, self.flags)


def invocation_of(context: _Context) -> Invocation:
    """The options given to the program; the defaults where a command is called on its own (tests)."""
    return context.find_object(Invocation) or Invocation()


def settings_of(context: _Context) -> Settings:
    """The effective settings of this call. Raises `ConfigurationError`, which ends the program with 78."""
    return invocation_of(context).load().settings


def http_address(option: str, url: str) -> str:
    """The address that an option gave, without final slashes. Raises `CommandError` where it is no HTTP address."""
    address = url.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise CommandError(f"{option} {url!r}: write http://HOST:PORT")
    return address


def exit_status(error: SentinelError) -> int:
    """Exit status of the process that an error ends with."""
    if isinstance(error, ConfigurationError):
        return EX_CONFIG
    return EX_USAGE if isinstance(error, CommandError) else 1
