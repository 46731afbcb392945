"""What the daemon does about adapters, made from settings: attribute events, keep replicas, watch promotions."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from daemon.attribution import Attribution
from daemon.serving_task import ServingTask
from daemon.watch import PromotionWatch, WatchLimits
from sentinel.clock import Clock
from sentinel.metrics import Metrics
from sentinel.served import ServedModels
from sentinel.settings import Settings

if TYPE_CHECKING:
    from sentinel.store.connections import Connect


class InService:
    """Attribution, serving and watch; without served models there is nothing to do."""

    def __init__(
        self, settings: Settings, connect: Connect, served: ServedModels, metrics: Metrics, clock: Clock
    ) -> None:
        promotion = settings.promotion
        self._any = bool(settings.served_models)
        self._attribution = Attribution(connect, served, metrics, promotion.follow_interval_s)
        self._watch = PromotionWatch(
            connect,
            WatchLimits(
                interval_s=promotion.watch_interval_s,
                first=promotion.watch_from,
                responses=promotion.watch_responses,
                hours=promotion.watch_hours,
                wrong_looks=promotion.wrong_looks,
            ),
            metrics=metrics,
            clock=clock,
        )
        self._serving = ServingTask(
            settings, connect, served, metrics=metrics, clock=clock, looked=self._watch.looked
        )

    async def prepare(self) -> None:
        """Learn the names before the first event comes. Raises what the database raises."""
        if self._any:
            await self._attribution.refresh()

    def work(self, stopping: asyncio.Event, *, behind_offset: bool) -> dict[str, Coroutine[Any, Any, None]]:
        """The tasks, by name. Without ``behind_offset`` only events are attributed: the rest is another's."""
        if not self._any:
            return {}
        tasks = {"attribution": self._attribution.run()}
        if behind_offset:
            tasks["serving"] = self._serving.run(stopping)
            tasks["promotion-watch"] = self._watch.run()
        return tasks

    def facts(self) -> dict[str, str]:
        """State of each replica at the last look; it does not decide readiness, since monitoring goes on."""
        return self._serving.facts()

    async def aclose(self) -> None:
        """Close the connections to the replicas."""
        await self._serving.aclose()
