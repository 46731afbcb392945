"""``sentinel dlq``: look at dead letters, send them again, and let a partition halted by a flood go on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from daemon.commands.operators import moment, with_database
from sentinel.actors import actor
from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from sentinel.store.connections import Connect
    from sentinel.store.dead_letters import DeadLetterRecord, DeadLetterSummary, Filter
    from sentinel.store.halts import PartitionState

app = typer.Typer(no_args_is_help=True, help="Dead letters: records and items that can never be processed.")

Reason = Annotated[str | None, typer.Option(help="Only this reason, for example invalid_json.")]
Topic = Annotated[str | None, typer.Option(help="Only letters of this topic.")]
Since = Annotated[str | None, typer.Option(help="Seen since: 15m, 2h, 3d, or an ISO time.")]
Until = Annotated[str | None, typer.Option(help="Seen before: 15m, 2h, 3d, or an ISO time.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Actor = Annotated[
    str | None, typer.Option(help="Who acts, for the audit log; else the account and the host.")
]


@app.command("list")
def list_letters(
    context: typer.Context,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    replayed: Annotated[
        bool | None, typer.Option("--replayed/--not-replayed", help="Only letters (not) sent again.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Letters shown at most, oldest first.")] = 50,
    as_json: Json = False,
) -> None:
    """Show dead letters, how many there are by reason, and partitions that a flood halted."""
    from sentinel.store import dead_letters, halts

    wanted = _filter(reason, topic, since, until, replayed)

    async def read(connect: Connect) -> tuple[list[DeadLetterSummary], dict[str, int], list[PartitionState]]:
        async with connect() as conn:
            return (
                await dead_letters.find(conn, wanted, limit=limit),
                await dead_letters.count_by_reason(conn),
                await halts.read_halts(conn),
            )

    letters, counts, halted = with_database(settings_of(context), read)
    if as_json:
        _echo_json({"dead_letters": letters, "counts": counts, "halted": halted})
        return
    _show_table(letters)
    total = sum(counts.values())
    by_reason = ", ".join(f"{name} {number}" for name, number in counts.items())
    typer.echo(f"{len(letters)} shown of {total} kept" + (f": {by_reason}" if by_reason else ""))
    for state in halted:
        typer.echo(f"halted ({state.halted}): {state.topic} {state.partition} - {state.halted_detail}")


@app.command("show")
def show_letter(
    context: typer.Context,
    letter: Annotated[UUID, typer.Argument(help="Id of the dead letter.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the record's value, byte for byte.")] = False,
    as_json: Json = False,
) -> None:
    """Show one dead letter whole. Its value is what a producer sent, prompts included."""
    from sentinel.store import dead_letters

    async def read(connect: Connect) -> DeadLetterRecord | None:
        async with connect() as conn:
            return await dead_letters.get(conn, letter)

    record = with_database(settings_of(context), read)
    if record is None:
        raise CommandError(f"there is no dead letter {letter}: `sentinel dlq list` shows those that are kept")
    if raw:
        sys.stdout.buffer.write(record.value or b"")
        return
    if as_json:
        _echo_json(
            {
                **_plain(record.summary),
                "key": _readable(record.key),
                "headers": [[name, _readable(value)] for name, value in record.headers],
                "value": _readable(record.value),
            }
        )
        return
    for name, value in _plain(record.summary).items():
        typer.echo(f"{name:18} {value if value is not None else '-'}")
    typer.echo(f"{'key':18} {_readable(record.key) or '-'}")
    for name, value in record.headers:
        typer.echo(f"{'header':18} {_printable(name)}: {_readable(value)}")
    typer.echo(_readable(record.value) or "(no value)")


@app.command("replay")
def replay_letters(
    context: typer.Context,
    letters: Annotated[list[UUID] | None, typer.Argument(help="Ids; without them, those that match.")] = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    again: Annotated[bool, typer.Option("--again", help="Also letters that were sent again before.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Letters sent at most, oldest first.")] = 100,
    to: Annotated[str | None, typer.Option(help="Another topic than the one they came from.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    given_actor: Annotated[str | None, typer.Option("--actor", help="Who acts, for the audit log.")] = None,
) -> None:
    """Send dead letters to their topic again, after the mend that makes them readable.

    A replayed item keeps the id that it would have had, so that sending it twice stores it once.

    Example: sentinel dlq replay --reason decoder_error --since 2h --limit 1000
    """
    from sentinel.store import dead_letters

    settings = settings_of(context)
    wanted = _filter(reason, topic, since, until, None if again else False)

    async def choose(connect: Connect) -> list[DeadLetterSummary]:
        async with connect() as conn:
            if not letters:
                return await dead_letters.find(conn, wanted, limit=limit)
            found = [await dead_letters.get(conn, letter) for letter in letters[:limit]]
        if missing := [str(one) for one, record in zip(letters, found, strict=False) if record is None]:
            raise CommandError(f"no such dead letter: {', '.join(missing)}")
        return [record.summary for record in found if record is not None]

    chosen = with_database(settings, choose)
    if to is None and (files := sorted({one.topic for one in chosen if one.topic.startswith("file:")})):
        raise CommandError(
            f"{files[0]} is a file that was replayed, no topic: mend it and `sentinel replay` it again,"
            " or name a topic with --to"
        )
    if not chosen:
        typer.echo("no dead letter matches")
        return
    _show_table(chosen)
    if dry_run:
        typer.echo(f"{len(chosen)} would be sent")
        return
    if unread := sorted({to or one.topic for one in chosen} - set(settings.kafka.topics)):
        typer.echo(f"note: this configuration does not consume {', '.join(unread)}", err=True)
    if not yes:
        typer.confirm(f"Send {len(chosen)} record(s) again?", abort=True)
    who = actor(given_actor)

    async def send(connect: Connect) -> int:
        from producers.replays import replay, replay_producer

        sent = 0
        try:
            async with replay_producer(settings.kafka) as producer:
                async for letter, there in replay(
                    connect, producer, [c.dead_letter_id for c in chosen], to=to
                ):
                    sent += there
                    if not there:
                        typer.echo(f"{letter} has expired meanwhile", err=True)
        finally:
            if sent:
                async with connect() as conn:
                    await dead_letters.record_replay(conn, actor=who, sent=sent, topic=to)
        return sent

    typer.echo(f"{with_database(settings, send)} sent")


@app.command("resume")
def resume_partition(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="Topic of the halted partition.")],
    partition: Annotated[int, typer.Argument(min=0, help="Number of the halted partition.")],
    allow: Annotated[
        int, typer.Option(min=0, help="Records for which the limit on bad ones is lifted; they are kept.")
    ],
    given_actor: Annotated[str | None, typer.Option("--actor", help="Who acts, for the audit log.")] = None,
) -> None:
    """Let a partition go on that was halted by a flood of bad records.

    The daemon that owns it notices within seconds. A partition halted as foreign is not resumed here:
    `sentinel offsets reset` decides where another log starts.
    """
    from sentinel.store import halts

    who = actor(given_actor)

    async def work(connect: Connect) -> PartitionState:
        async with connect() as conn, conn.transaction():
            return await halts.resume(conn, topic, partition, allow=allow, actor=who)

    state = with_database(settings_of(context), work)
    typer.echo(
        f"{topic}/{partition} goes on at offset {state.next_offset};"
        f" bad records do not halt it within the next {allow} record(s)"
    )


def _filter(
    reason: str | None, topic: str | None, since: str | None, until: str | None, replayed: bool | None
) -> Filter:
    from sentinel.clock import SystemClock
    from sentinel.store.dead_letters import Filter

    now = SystemClock().now()
    return Filter(
        reason=reason, topic=topic, since=moment(since, now), until=moment(until, now), replayed=replayed
    )


def _show_table(letters: list[DeadLetterSummary]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("id", "first seen", "place", "reason", "bytes", "sent again", "detail"):
        # The id is what the other commands are given: never cut it.
        table.add_column(name, no_wrap=name != "detail", overflow="fold")
    for one in letters:
        # A file's hash is as long as a line: its beginning tells it apart, `dlq show` has the whole.
        topic = f"{one.topic[:17]}…" if one.topic.startswith("file:") else one.topic
        place = f"{topic}/{one.partition}@{one.offset}" + (f"#{one.item}" if one.item else "")
        seen = one.first_seen.strftime("%Y-%m-%d %H:%M:%S")
        cells = (one.dead_letter_id, seen, place, one.reason, one.size, one.replays or "", one.detail)
        table.add_row(*(Text(_printable(str(cell))) for cell in cells))
    if letters:
        # Wider than most terminals, which then wrap the end of each line: folded columns cannot be read, and
        # the id is what the other commands are given.
        Console(width=max(Console().width, 160)).print(table)


def _plain(value: Any) -> dict[str, Any]:
    from msgspec import to_builtins

    result: dict[str, Any] = to_builtins(value)
    return result


def _echo_json(value: Any) -> None:
    from msgspec import json

    typer.echo(json.format(json.encode(value), indent=2).decode())


def _readable(value: bytes | None) -> str | None:
    """Bytes as text; what is no text, and what would steer a terminal, as escapes."""
    return None if value is None else _printable(value.decode("utf-8", "backslashreplace"))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
