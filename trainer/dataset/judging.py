"""The guard that labelled the pairs, asked about an answer that the base gave only now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sentinel.clock import Clock
from sentinel.events import Message
from sentinel.guards.base import GuardRequest
from sentinel.guards.configured import configured_guard
from sentinel.verdicts import Assessment, Label, Role
from trainer.dataset.benign_rows import Judge

if TYPE_CHECKING:
    from sentinel.settings import Settings


@asynccontextmanager
async def data_judge(settings: Settings, clock: Clock) -> AsyncIterator[Judge]:
    """That guard for as long as the block lasts; what it cannot judge is unparseable, and so never safe."""
    guard = configured_guard(settings, clock)

    async def judge(prompt: Sequence[Message], answer: str) -> Label:
        (judgement,) = await guard.assess([GuardRequest(Role.RESPONSE, tuple(prompt), answer)])
        return judgement.label if isinstance(judgement, Assessment) else Label.UNPARSEABLE

    try:
        yield judge
    finally:
        await guard.aclose()
