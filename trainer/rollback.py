"""Out of service with an adapter, back to what it replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sentinel import logs
from sentinel.clock import Clock, SystemClock
from sentinel.errors import CommandError
from sentinel.promotions import Promotion
from sentinel.serving import Serving, announceable
from sentinel.serving_assembly import make_serving
from sentinel.serving_desired import desired_state
from sentinel.store import promotions
from sentinel.store.adapters import StaleStateError
from sentinel.store.admission import in_service
from sentinel.store.connections import Connect
from trainer.changes import ACTOR, ChangePayload, adapter_of_payload
from trainer.connections import connections

if TYPE_CHECKING:
    from sentinel.settings import Settings

_log = logs.get("trainer.rollback")

PREPARE_S: Final = 10.0
"""How long replicas may take to serve the predecessor again; what must go is not kept any longer for that."""
LOOK_S: Final = 0.5


async def rollback(
    connect: Connect,
    settings: Settings,
    served_model: str,
    *,
    actor: str,
    reason: str,
    adapter: str | None = None,
    serving: Serving | None = None,
    clock: Clock | None = None,
    prepare_s: float = PREPARE_S,
) -> Promotion | None:
    """Take the adapter in service out of it; None (nothing changed) where ``adapter`` is named and another one is.

    The predecessor is loaded first where it is not any more, within ``prepare_s``; afterwards it goes back into
    service whatever the replicas say, since the route has the base for what is missing.

    Raises:
        CommandError: the base is in service, there is nothing behind it.
        asyncpg's errors: the database; call again.
    """
    clock = clock or SystemClock()
    async with connect() as conn:
        current = await in_service(conn, served_model)
        if adapter is not None and current != adapter:
            return None
        if current is None:
            raise CommandError(f"{served_model} is served by its base: there is nothing to roll back")
        target = await promotions.predecessor_of(conn, current)
    if target is not None and (serving is not None or _has_replicas(settings, served_model)):
        await _prepare(connect, settings, served_model, target, serving, clock, prepare_s)
    async with connect() as conn:
        try:
            change = await promotions.roll_back(
                conn, current, actor=actor, reason=reason, topic=settings.kafka.promotions_topic
            )
        except StaleStateError:
            if adapter is None:
                raise
            return None  # somebody else has just done it, or something newer is in service
    _log.warning(
        "An adapter was rolled back.",
        action="rollback",
        served_model=served_model,
        adapter=current,
        to=change.adapter or "base",
        generation=change.generation,
        reason=reason,
    )
    return change


async def run_rollback(settings: Settings, payload: ChangePayload) -> Promotion | None:
    """Take the adapter that the run of a job's payload made out of service; None where another one is by now."""
    async with connections(settings) as connect:
        row = await adapter_of_payload(connect, payload)
        return await rollback(
            connect, settings, payload.served_model, adapter=row.adapter, actor=ACTOR, reason="watch"
        )


def _has_replicas(settings: Settings, served_model: str) -> bool:
    model = settings.served_models.get(served_model)
    return model is not None and bool(model.replicas)


async def _prepare(
    connect: Connect,
    settings: Settings,
    served_model: str,
    target: str,
    serving: Serving | None,
    clock: Clock,
    prepare_s: float,
) -> None:
    """Have the predecessor loaded and proven everywhere, as far as that goes in the time."""
    replicas = serving or make_serving(settings, served_model, clock=clock)
    deadline = clock.monotonic() + prepare_s
    try:
        while True:
            async with connect() as conn:
                desired = await desired_state(conn, served_model, also=target)
            reports = await replicas.reconcile(desired)
            if announceable(reports, target):
                return
            if clock.monotonic() >= deadline:
                _log.warning(
                    "Not every replica serves what is being put back.",
                    action="rollback",
                    adapter=target,
                    replicas="; ".join(f"{r.replica}: {r.state.value} {r.detail}".rstrip() for r in reports),
                )
                return
            await asyncio.sleep(LOOK_S)
    finally:
        if serving is None:
            await replicas.aclose()
