"""``sentinel replay``: events from a JSONL file or standard input, through the same pipeline as a topic."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    from consumers.file import FileSource
    from daemon.app import Service
    from sentinel.settings import Settings


def replay(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="JSONL file, one record a line; - for standard input.")],
    record_format: Annotated[
        str | None, typer.Option("--format", help="Format of the lines where their keys do not say it.")
    ] = None,
) -> None:
    """Score and store the events of a file, once, however often it is given.

    The file is a log of its own (named by its hash): an interrupted replay goes on where it stopped, and lines
    that were read before are not read again.

    Examples: sentinel replay events.jsonl  ·  zcat old.jsonl.gz | sentinel replay -
    """
    settings = settings_of(context)
    if file != "-" and not Path(file).is_file():
        raise CommandError(f"{file} is not a file; give a JSONL file, or - for standard input")

    from consumers.formats import TOPIC_FORMATS
    from sentinel import logs

    if record_format is not None and record_format not in TOPIC_FORMATS:
        raise CommandError(f"--format {record_format} is unknown; known: {', '.join(sorted(TOPIC_FORMATS))}")
    logs.configure(settings.logging)
    with tempfile.TemporaryDirectory(prefix="sentinel-replay-") as folder:
        path = Path(file) if file != "-" else _spool(Path(folder) / "stdin.jsonl")
        sums = asyncio.run(_replay(settings, path, record_format))
    for name, number in sums.items():
        typer.echo(f"{name:32} {number:>10}")


def _spool(path: Path) -> Path:
    """Standard input as a file: its hash must be known before the first line is stored."""
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


async def _replay(settings: Settings, path: Path, record_format: str | None) -> dict[str, int]:
    from consumers.file import FileSource
    from sentinel.store.connections import connect_to
    from sentinel.store.engine import create_engine
    from sentinel.store.instance import InstanceLock
    from sentinel.store.migrate import check_schema
    from sentinel.store.offsets import sums_of

    source = FileSource(path, max_line_bytes=settings.consumer.max_record_bytes)
    await source.open()
    topic = source.partition.topic
    engine = create_engine(settings.database)
    connect = connect_to(engine)
    lock = InstanceLock(engine, "replay", topic)
    try:
        async with connect() as conn:
            await check_schema(conn)
        try:
            await lock.acquire()
        except ConfigurationError as error:
            # A file has no group: two readers would fence each other off for ever.
            raise CommandError("this file is being replayed by another process: wait for its end") from error
        await _serve(settings, source, record_format)
        async with connect() as conn:
            return await sums_of(conn, topic)
    finally:
        await source.stop()
        await lock.release()
        await engine.dispose()


async def _serve(settings: Settings, source: FileSource, record_format: str | None) -> None:
    """Run a service over the file to its end. Raises CommandError where it ended before."""
    from daemon.app import Service, handle_signals

    service = Service(
        # No group, no port of its own beside a running daemon, nothing relayed twice.
        settings.model_copy(
            update={
                "kafka": settings.kafka.model_copy(update={"instance_id": None, "start": "earliest"}),
                "metrics": settings.metrics.model_copy(update={"port": 0}),
            }
        ),
        source=source,
        default_format=record_format,
        # Findings are asked again and announced by the running daemon.
        behind_offset=False,
    )
    handle_signals(service)
    progress = asyncio.create_task(_show(service, source), name="progress")
    try:
        done = await service.run(until_exhausted=True)
    finally:
        progress.cancel()
        with suppress(asyncio.CancelledError):
            await progress
    halted = [tracker.halted for tracker in service.intake.loop.owned if tracker.halted]
    if halted:
        raise CommandError(
            f"the replay halted ({halted[0]}): look at 'sentinel dlq list', then"
            f" 'sentinel dlq resume {source.partition.topic} 0 --allow N' and give the file again"
        )
    passed = sum(tracker.next_offset for tracker in service.intake.loop.owned)
    if not done or passed < source.lines:
        raise CommandError("not everything was scored and stored: give the same file again to go on")


async def _show(service: Service, source: FileSource) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("lines"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("lines", total=None)
        while True:
            if any(tracker.halted for tracker in service.intake.loop.owned):
                service.stop()
            done = sum(tracker.next_offset for tracker in service.intake.loop.owned)
            bar.update(task, total=source.lines or None, completed=done)
            await asyncio.sleep(0.2)
