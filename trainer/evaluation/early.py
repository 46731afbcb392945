"""Judging while others are still asked: judge and asked model are two servers, and neither need wait for the other."""

from __future__ import annotations

import asyncio
from typing import Final

from sentinel.errors import SlowDownError, UnavailableError
from trainer.evaluation.answering import RawAnswer
from trainer.evaluation.judging import Judging

_BATCH: Final = 128
_LONGEST: Final = 8192
"""Answers that wait at most; what comes beyond is judged in its own phase."""


class EarlyJudging:
    """Shows answers to the judge as they come. Where the judge is not there yet, its own phase does everything."""

    def __init__(self, judging: Judging, *, enabled: bool) -> None:
        self._judging = judging
        self._enabled = enabled and judging.wanted() > 0
        self._waiting: list[RawAnswer] = []
        self._task: asyncio.Task[None] | None = None

    def seen(self, answer: RawAnswer) -> None:
        """Take an answer; never waits."""
        if not self._enabled or len(self._waiting) >= _LONGEST or not self._judging.shown(answer):
            return
        self._waiting.append(answer)
        if len(self._waiting) >= _BATCH and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._judge())

    async def finish(self) -> None:
        """Wait for the batch under way; the rest is left to the judge's own phase."""
        self._enabled = False
        if self._task is not None:
            await self._task

    async def aclose(self) -> None:
        """Leave no task behind, whatever ended the asking."""
        self._enabled = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _judge(self) -> None:
        while self._enabled and len(self._waiting) >= _BATCH:
            batch, self._waiting = self._waiting, []
            try:
                await self._judging.learn(batch)
            except (UnavailableError, SlowDownError):
                self._enabled = False
