"""The systemd units that ship with the product, made to fit the place where it is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sentinel.errors import CommandError
from sentinel.resources import data_path

PLACEHOLDER: Final = "@SENTINEL@"
"""Stands for the absolute path of the command in the shipped units."""

_HIDDEN: Final = ("/home", "/root", "/run/user")
"""What ProtectHome= hides from a service."""


def render_units(command: Path) -> dict[str, str]:
    """Every unit by file name, with ``command`` as the program.

    Raises CommandError where systemd could not start that program.
    """
    # Not resolved: the script of a virtual environment may be a link, and its own name is what stays.
    place = Path(os.path.abspath(command))  # noqa: PTH100 Path.resolve would follow links
    if not os.access(place, os.X_OK) or not place.is_file():
        raise CommandError(f"{place} is not a program: name the installed `sentinel`")
    if any(letter.isspace() or letter in "%\"'\\" for letter in str(place)):
        raise CommandError(
            f"{place}: systemd cannot start a program whose path has blanks, quotes or '%' in it"
        )
    units = {}
    for file in sorted(data_path("configs", "systemd").iterdir()):
        units[file.name] = file.read_text(encoding="utf-8").replace(PLACEHOLDER, str(place))
    return units


def hidden_place(command: Path) -> str | None:
    """The folder that hides ``command`` from the service, None where it can be seen."""
    place = str(command.resolve())
    return next((folder for folder in _HIDDEN if place.startswith(f"{folder}/")), None)


def write_units(folder: Path, command: Path) -> list[Path]:
    """Write the units into ``folder``, which must exist; returns the files. Raises CommandError and OSError."""
    files = []
    for name, text in render_units(command).items():
        file = folder / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)
        files.append(file)
    return files
