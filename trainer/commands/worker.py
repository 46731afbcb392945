"""``sentinel trainer``: the process that takes training, promotion and rollback jobs."""

from __future__ import annotations

import typer


def trainer(context: typer.Context) -> None:
    """Take jobs until SIGTERM."""
    raise NotImplementedError
