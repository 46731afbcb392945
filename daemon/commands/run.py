"""``sentinel run``: the daemon in the foreground."""

from __future__ import annotations

import asyncio

import typer

from sentinel.command_line import settings_of


def run(context: typer.Context) -> None:
    """Consume events, score them and store what was found, until SIGTERM.

    Example: sentinel run --config /etc/sentinel/sentinel.yaml
    """
    settings = settings_of(context)

    from daemon import collector
    from daemon.app import Service, handle_signals
    from sentinel import logs

    logs.configure(settings.logging)

    async def main() -> None:
        service = Service(settings)
        collector.calm()
        handle_signals(service)
        await service.run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
