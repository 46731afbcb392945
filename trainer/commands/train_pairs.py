"""``sentinel train pairs``: which preference pairs there are, and which of them may be trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from sentinel.command_line import settings_of

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Settings
    from trainer.pairs import StoredPair


def pairs(
    context: typer.Context,
    served_model: Annotated[
        str | None, typer.Option("--served-model", "-m", help="Only this one of served_models.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a line a pair: its ids, its event, and why it is dropped."),
    ] = None,
) -> None:
    """Count a served model's pairs: valid, fresh (in no data set yet), and dropped by reason.

    Duplicates, caps and what evaluation asks are counted when a data set is made: `sentinel train dataset`.

    Example: sentinel train pairs --served-model main --json
    """
    from trainer.connections import with_database
    from trainer.served import known_names

    settings = settings_of(context)
    names = known_names(settings, served_model)

    lines: list[dict[str, Any]] = []

    async def work(conn: asyncpg.Connection[Any]) -> list[dict[str, Any]]:
        return [await _counted(conn, settings, name, lines) for name in names]

    found = with_database(settings, work)
    if out is not None:
        from trainer.run_directory import replace_file

        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, b"".join(orjson.dumps(line) + b"\n" for line in lines))
    if as_json:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    _show(found)


async def _counted(
    conn: asyncpg.Connection[Any], settings: Settings, name: str, lines: list[dict[str, Any]]
) -> dict[str, Any]:
    from trainer.dataset.building import collected_for
    from trainer.dataset.drops import fault_of_sides

    collected = await collected_for(conn, name, settings)
    dropped = Counter(why.value for why in collected.dropped.values())
    lines += [
        {"served_model": name, "pair_id": str(pair_id), "dropped": why.value}
        for pair_id, why in collected.dropped.items()
    ]
    families: Counter[str] = Counter()
    fresh = from_adapters = 0
    for pair in collected.valid:
        fault = fault_of_sides(pair.chosen, pair.rejected, near_identical=settings.dataset.near_identical)
        lines.append(_line(name, pair, fault and fault.value))
        if fault is not None:
            dropped[fault.value] += 1
            continue
        families[pair.family] += 1
        fresh += pair.fresh
        from_adapters += pair.adapter is not None
    return {
        "served_model": name,
        "stored": len(collected.valid) + len(collected.dropped),
        "valid": sum(families.values()),
        "fresh": fresh,
        "from_adapters": from_adapters,
        "families": dict(sorted(families.items())),
        "dropped": dict(sorted(dropped.items())),
        "min_pairs": settings.dataset.min_pairs,
    }


def _line(name: str, pair: StoredPair, dropped: str | None) -> dict[str, Any]:
    """A pair without its texts: they stay in the store, where they can be erased."""
    return {
        "served_model": name,
        "pair_id": str(pair.pair_id),
        "finding_id": str(pair.finding_id),
        "event_id": str(pair.event_id),
        "family": pair.family,
        "adapter": pair.adapter,
        "guard_id": pair.guard_id,
        "score_run": pair.score_run,
        "created_at": pair.created_at,
        "fresh": pair.fresh,
        "dropped": dropped,
    }


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in ("served model", "stored", "valid", "fresh", "of adapters"):
        table.add_column(name, justify="left" if name == "served model" else "right")
    table.add_column("families")
    table.add_column("dropped")
    for one in found:
        table.add_row(
            one["served_model"],
            *(str(one[name]) for name in ("stored", "valid", "fresh", "from_adapters")),
            _listed(one["families"]),
            _listed(one["dropped"]),
        )
    Console().print(table)


def _listed(counts: dict[str, int]) -> str:
    return "\n".join(f"{name} {number}" for name, number in counts.items()) or "-"
