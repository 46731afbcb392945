"""Finding subcommands by entry point, loading one only when it is called, and living with broken ones."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from sentinel.command_line import invocation_of
from sentinel.errors import FatalError

GROUP: Final = "sentinel.commands"

Command = TyperCommand | TyperGroup


class PluginGroup(TyperGroup):
    """A command group whose subcommands are the entry points of `GROUP`."""

    @cached_property
    def _offers(self) -> dict[str, list[EntryPoint]]:
        offers: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=GROUP)):
            known = offers.setdefault(entry.name, [])
            # An editable install may be found twice, in site-packages and in the checkout.
            if entry.value not in {other.value for other in known}:
                known.append(entry)
        return offers

    def list_commands(self, ctx: Any) -> list[str]:
        """Names for the help page, sorted."""
        return sorted({*super().list_commands(ctx), *self._offers})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one subcommand; a broken one becomes a command that says so when it is called."""
        if cmd_name in self.commands or cmd_name not in self._offers:
            return super().get_command(ctx, cmd_name)
        command = self._load(cmd_name)
        self._accept_shared_options(command)
        self.commands[cmd_name] = command
        return command

    def _load(self, name: str) -> Command:
        offers = self._offers[name]
        if len(offers) > 1:
            return _broken(name, "offered more than once: " + ", ".join(entry.value for entry in offers))
        try:
            return as_command(name, offers[0].load())
        except Exception as error:  # noqa: BLE001 a plug-in may fail in any way; the other commands must work
            return _broken(name, f"{type(error).__name__}: {error}")

    def _accept_shared_options(self, command: Command) -> None:
        """Let ``sentinel run --config FILE`` mean ``sentinel --config FILE run``; an own option of that name wins."""
        own = {option for parameter in command.params for option in parameter.opts}
        for parameter in self.params:
            if parameter.name in _SHARED and not own.intersection(parameter.opts):
                accepted: Any = copy.copy(parameter)
                accepted.expose_value = False
                accepted.callback = _SHARED[parameter.name]
                accepted.hidden = True
                command.params.append(accepted)
        if isinstance(command, TyperGroup):
            for inner in command.commands.values():
                if isinstance(inner, (TyperCommand, TyperGroup)):
                    self._accept_shared_options(inner)


def as_command(name: str, offered: object) -> Command:
    """Make a command of what an entry point holds. Raises TypeError for anything else."""
    if isinstance(offered, typer.Typer):
        command = typer.main.get_command(offered)
    elif callable(offered):
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name)(offered)
        command = typer.main.get_command(single)
    else:
        raise TypeError(f"{type(offered).__name__} is neither a function nor a Typer application")
    if not isinstance(command, (TyperCommand, TyperGroup)):
        raise TypeError(f"{type(command).__name__} is no command")
    command.name = name
    _tidy(command)
    return command


def _tidy(command: Command) -> None:
    """Give help in paragraphs that fit any terminal, and no options for completion: the program is one, not a part."""
    command.params = [parameter for parameter in command.params if parameter.name not in _COMPLETION]
    if command.help:
        command.help = "\n\n".join(map(_reflowed, inspect.cleandoc(command.help).split("\n\n")))
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            if isinstance(inner, (TyperCommand, TyperGroup)):
                _tidy(inner)


def _reflowed(paragraph: str) -> str:
    """Its lines joined where the source only ran out of room: not behind a short line, nor before an indented one."""
    lines: list[str] = []
    room = 0
    for line in paragraph.split("\n"):
        if lines and room >= _FULL_LINE and not line.startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        room = len(line)
    return "\n".join(lines)


def _broken(name: str, cause: str) -> Command:
    def fail() -> None:
        raise FatalError(f"`sentinel {name}` cannot be loaded: {cause}")

    single = typer.Typer(add_completion=False)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    single.command(name, help=f"Cannot be loaded: {cause}", context_settings=anything)(fail)
    command = typer.main.get_command(single)
    assert isinstance(command, TyperCommand)  # noqa: S101 one command and no callback: never a group
    return command


def _amend(context: typer.Context, **changes: Any) -> None:
    """Change the shared options for this command and whatever it calls."""
    amended = replace(invocation_of(context), **changes)
    above: Any = context
    while above is not None:
        above.obj = amended
        above = above.parent


def _config(context: typer.Context, _: Any, value: Any) -> None:
    if value is not None:
        _amend(context, config=Path(value))


def _flags(context: typer.Context, _: Any, value: Any) -> None:
    if value:
        _amend(context, flags=(*invocation_of(context).flags, *value))


def _debug(context: typer.Context, _: Any, value: Any) -> None:
    if value:
        _amend(context, debug=True)


_COMPLETION: Final = frozenset({"install_completion", "show_completion"})
_FULL_LINE: Final = 90
"""Characters of a docstring's line after which the next word may have found no room; lines end before 120."""

_SHARED: Final[dict[str, Callable[[typer.Context, Any, Any], None]]] = {
    "config": _config,
    "flags": _flags,
    "debug": _debug,
}
