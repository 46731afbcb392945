"""``sentinel freeze`` and ``sentinel unfreeze``: no retraining and no promotion until further notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemon.commands.operators import with_database
from sentinel.actors import actor
from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from sentinel.settings import Settings
    from sentinel.store.connections import Connect

Model = Annotated[str | None, typer.Argument(metavar="[SERVED_MODEL]", help="Name in served_models.")]
All = Annotated[bool, typer.Option("--all", help="Every served model, those to come too.")]
Actor = Annotated[
    str | None, typer.Option("--actor", help="Who acts, for the audit log; else the account and the host.")
]


def freeze(
    context: typer.Context,
    served_model: Model = None,
    every: All = False,
    reason: Annotated[str, typer.Option(help="Why; shown to whoever is refused.")] = "",
    given_actor: Actor = None,
) -> None:
    """Stop retraining and promotions. Monitoring goes on, and a rollback stays possible.

    Example: sentinel freeze main --reason "holidays"
    """
    from sentinel.store import admission

    settings = settings_of(context)
    name = _name(settings, served_model, every=every)
    who = actor(given_actor)

    async def work(connect: Connect) -> bool:
        async with connect() as conn:
            return await admission.freeze(conn, name, actor=who, reason=reason)

    new = with_database(settings, work)
    typer.echo(f"{_said(name)} is frozen" if new else f"{_said(name)} was frozen already")


def unfreeze(
    context: typer.Context, served_model: Model = None, every: All = False, given_actor: Actor = None
) -> None:
    """Let retraining and promotions go on. A freeze of every model is lifted with --all alone.

    Example: sentinel unfreeze main
    """
    from sentinel.store import admission, training

    settings = settings_of(context)
    name = _name(settings, served_model, every=every)
    who = actor(given_actor)

    async def work(connect: Connect) -> tuple[bool, bool]:
        async with connect() as conn:
            lifted = await admission.unfreeze(conn, name, actor=who)
            return lifted, await training.frozen(conn, name) is not None

    lifted, still = with_database(settings, work)
    if not lifted:
        raise CommandError(f"{_said(name)} is not frozen by that name")
    typer.echo(f"{_said(name)} is no longer frozen" + (", but every model is" if still else ""))


def _name(settings: Settings, served_model: str | None, *, every: bool) -> str:
    """What the freeze is called in the table. Raises CommandError where it is not clear what is meant."""
    from sentinel.store.admission import EVERY_MODEL

    if every and served_model is not None:
        raise CommandError("give a served model or --all, not both")
    if every:
        return EVERY_MODEL
    names = list(settings.served_models)
    if served_model is None:
        if len(names) != 1:
            raise CommandError(
                f"say which served model, or --all: {', '.join(names) or 'none is configured'}"
            )
        return names[0]
    if served_model not in names:
        # A freeze of a misspelt name would stop nothing.
        raise CommandError(f"served_models has no {served_model!r}; it has {', '.join(names) or 'none'}")
    return served_model


def _said(name: str) -> str:
    from sentinel.store.admission import EVERY_MODEL

    return "every served model" if name == EVERY_MODEL else name
