"""How a long step says where it stands; progress bars, events and the run's row are made from it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Stage(Struct, frozen=True, gc=False):
    """Where a step stands."""

    step: str
    """pairs, dataset, finetune, evaluate, gate or promote."""
    done: int
    total: int
    """In units of the step (rows, optimizer steps, answers); 0 where it is not known yet."""
    detail: str = ""
    """For people; no prompt or answer is in it."""


Report = Callable[[Stage], None]
"""Takes a stage. Called often: it must be quick and must not raise."""


def silent(stage: Stage) -> None:
    """Report to nobody."""
