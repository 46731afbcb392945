"""What the store says while the demonstration runs, and how the terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct
from rich.table import Table

if TYPE_CHECKING:
    import asyncpg

_COUNTS = """
SELECT
    (SELECT count(*) FROM interactions) AS interactions,
    (SELECT count(*) FROM interactions WHERE outcome = 'stored') AS scored,
    (SELECT count(*) FROM interactions WHERE unsafe) AS unsafe,
    (SELECT count(*) FROM findings) AS findings,
    (SELECT count(*) FROM findings WHERE reprompt_state IN ('pending', 'claimed')) AS pending,
    (SELECT count(*) FROM findings WHERE reprompt_state = 'safe') AS safer,
    (SELECT count(*) FROM findings WHERE reprompt_state IN ('safe', 'unsafe', 'failed')) AS asked_again,
    (SELECT count(*) FROM preference_pairs) AS pairs,
    (SELECT coalesce(sum(records), 0) FROM consumer_offsets) AS records,
    (SELECT coalesce(sum(lost), 0) FROM consumer_offsets) AS lost
"""


class Progress(Struct, frozen=True, kw_only=True):
    """Counts at one moment."""

    interactions: int
    scored: int
    unsafe: int
    findings: int
    pending: int
    safer: int
    asked_again: int
    pairs: int
    records: int
    lost: int


async def read(conn: asyncpg.Connection[Any]) -> Progress:
    """Count."""
    row = await conn.fetchrow(_COUNTS)
    return Progress(**{name: int(value) for name, value in dict(row or {}).items()})


def table(progress: Progress, answered: int, seconds: float, phase: str) -> Table:
    """The live view."""
    share = f"{100 * progress.unsafe / progress.scored:.1f} %" if progress.scored else "-"
    again = f"{100 * progress.safer / progress.asked_again:.1f} %" if progress.asked_again else "-"
    shown = Table(title=f"Sentinel Loop demonstration: {phase} ({seconds:.0f} s)", title_justify="left")
    for heading in (
        "answers given",
        "read",
        "behind",
        "unsafe answers",
        "share",
        "asked again",
        "safe then",
        "pairs",
    ):
        shown.add_column(heading, justify="right")
    shown.add_row(
        str(answered),
        str(progress.records),
        str(max(0, answered - progress.records)),
        str(progress.unsafe),
        share,
        str(progress.asked_again),
        again,
        str(progress.pairs),
    )
    return shown
