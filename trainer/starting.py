"""A training run that a person starts: the same row and the same job as a trigger makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sentinel.errors import CommandError
from sentinel.jobs import JobKind, JobPayload, enqueue, withdraw
from sentinel.states import RunState
from sentinel.store import training

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Settings

    Connection = asyncpg.Connection[Any]


async def start_run(
    conn: Connection,
    settings: Settings,
    served_model: str,
    *,
    actor: str,
    recipe: str | None = None,
    family: str = "",
) -> UUID:
    """Create a run and put its job on the queue, in one transaction; the run's id.

    ``family``: harmful prompts of this family have to become safer, and no others worse; empty: all together.

    Raises:
        CommandError: the served model is unknown or frozen, or a run of it is queued or running.
    """
    if served_model not in settings.served_models:
        known = ", ".join(sorted(settings.served_models)) or "none"
        raise CommandError(f"served_models has no {served_model!r} (it has: {known})")
    if reason := await training.frozen(conn, served_model):
        raise CommandError(f"{reason}: `sentinel unfreeze` lets it be trained again")
    run_id = uuid4()
    config = {"recipe": recipe or settings.training.recipe, "started_by": actor}
    if family:
        config["family"] = family
    async with conn.transaction():
        if not await training.create_run(conn, run_id, served_model, "train", config):
            active = await training.runs(
                conn, served_model=served_model, kind="train", states=(RunState.QUEUED, RunState.RUNNING)
            )
            which = f" ({active[0].run_id}, {active[0].state})" if active else ""
            raise CommandError(
                f"a run of {served_model} is under way{which}: wait for it, or `sentinel train cancel` it"
            )
        if not await enqueue(conn, JobPayload(kind=JobKind.TRAIN, run_id=run_id, served_model=served_model)):
            raise CommandError(f"the last job of {served_model} is being put away: try again in a moment")
    return run_id


async def cancel_run(conn: Connection, run: training.TrainingRun, *, silent_s: float) -> RunState:
    """Cancel a run and take its job off the queue where no worker has it; the run's state afterwards.

    Raises:
        CommandError: the run has ended.
    """
    async with conn.transaction():
        state = await training.request_cancel(conn, run.run_id, silent_s=silent_s)
        if state is RunState.CANCELLED:
            await withdraw(conn, JobKind.TRAIN, run.served_model)
    return state
