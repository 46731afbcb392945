"""Where the files that ship with the code are: in a checkout beside the packages, elsewhere in the wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sentinel.errors import ConfigurationError

DEFAULT_RANK: Final = 16
"""LoRA rank of a training recipe that names none, for the trainer and the doctor."""

_PACKAGE: Final = Path(__file__).resolve().parent


def data_path(*parts: str) -> Path:
    """The path of a shipped file or folder: ``data_path("configs", "systemd", "sentinel@.service")``.

    The first part is ``configs`` or ``dashboards``. The checkout is looked at first: an editable install
    also holds a copy made when it was installed, and that one goes stale.

    Raises:
        ConfigurationError: neither place has it (a wheel built without its data, or a misspelt name).
    """
    candidates = [base.joinpath(*parts) for base in (_PACKAGE.parent, _PACKAGE / "_data")]
    if not (_PACKAGE.parent / "pyproject.toml").is_file():
        # Installed: `configs` beside the packages would be somebody else's folder in site-packages.
        candidates = candidates[1:]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ConfigurationError(
        f"the installation lacks {'/'.join(parts)}; looked for {', '.join(map(str, candidates))}: reinstall"
    )


def recipe_names() -> tuple[str, ...]:
    """Names of the training recipes that ship."""
    return tuple(sorted(path.stem for path in data_path("configs", "train").glob("*.yaml")))


def recipe_path(name: str | Path) -> Path:
    """The file of a training recipe, which need not be there: one that ships, by its name, else the path given.

    Raises ConfigurationError as `data_path` does.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} and str(name) in recipe_names():
        return data_path("configs", "train", f"{name}.yaml")
    return path
