"""The served models that a command of the trainer is about."""

from __future__ import annotations

from sentinel.errors import CommandError
from sentinel.settings import Settings


def known_names(settings: Settings, wanted: str | None) -> tuple[str, ...]:
    """``wanted`` alone, or all served models. Raises CommandError for one that the settings do not name."""
    known = tuple(sorted(settings.served_models))
    if wanted is not None and wanted not in known:
        raise CommandError(f"served_models has no {wanted!r}; it names: {', '.join(known) or 'none'}")
    if not known:
        raise CommandError("served_models is empty: name the model whose answers are watched")
    return known if wanted is None else (wanted,)
