"""``sentinel route``: the OpenAI-compatible pass-through in the foreground."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from sentinel.settings import Settings


def route(
    context: typer.Context,
    litellm_config: Annotated[
        bool,
        typer.Option(
            "--litellm-config", help="Write the mapping of this moment for LiteLLM's proxy, and end."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="With --litellm-config: write it there."),
    ] = None,
) -> None:
    """Pass OpenAI-compatible calls on to what is promoted, and report them, until SIGTERM.

    Example: sentinel route --config /etc/sentinel/sentinel.yaml
    """
    settings = settings_of(context)

    from sentinel import logs

    logs.configure(settings.logging)
    if litellm_config:
        text = asyncio.run(_aliases(settings))
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
        return
    if output is not None:
        raise CommandError("--output goes with --litellm-config")

    from producers.route.app import RouteService, handle_signals

    async def main() -> None:
        service = RouteService(settings)
        handle_signals(service)
        await service.run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


async def _aliases(settings: Settings) -> str:
    from producers.route.aliases import litellm_config
    from producers.route.mapping import reader
    from sentinel.store.engine import DATABASE_ERRORS, create_engine

    if not settings.served_models:
        raise CommandError("served_models is empty: there is nothing to write")
    engine = create_engine(settings.database)
    try:
        promoted = await reader(engine)()
    except DATABASE_ERRORS as error:
        # A guess would put the base in front of the applications.
        raise CommandError(f"the promotions cannot be read ({type(error).__name__})") from error
    finally:
        await engine.dispose()
    return litellm_config(settings, promoted)
