"""What the store says while the demonstration runs, and how the terminal shows it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from rich import box
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
    (SELECT coalesce(sum(lost), 0) FROM consumer_offsets) AS lost,
    (SELECT count(*) FROM trigger_firings WHERE run_id IS NOT NULL) AS fired
"""
_IN_SERVICE = "SELECT adapter FROM promotions ORDER BY generation DESC LIMIT 1"
_RUN = """
SELECT state, step, progress FROM training_runs WHERE kind = 'train' ORDER BY created_at DESC, run_id LIMIT 1
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
    fired: int
    """Crossings of a threshold that started a run."""
    run_state: str = ""
    run_step: str = ""
    run_share: float = 0.0
    in_service: str = ""
    """The promoted adapter; empty for the base."""


async def read(conn: asyncpg.Connection[Any]) -> Progress:
    """Count."""
    counts: dict[str, Any] = dict(await conn.fetchrow(_COUNTS) or {})
    run = await conn.fetchrow(_RUN)
    numbers = {name: int(value) for name, value in counts.items()}
    in_service = await conn.fetchval(_IN_SERVICE)
    found = msgspec.convert({**numbers, "in_service": in_service or ""}, Progress)
    if run is None:
        return found
    return msgspec.structs.replace(
        found, run_state=run["state"], run_step=run["step"], run_share=run["progress"]
    )


class Rate:
    """How fast a count grows, over the last seconds: over the whole run it would sink while a model is trained."""

    def __init__(self, over_s: float = 10.0) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, seconds: float, count: int) -> float:
        """Note ``count`` at ``seconds``; its growth a second, 0 where nothing is known yet."""
        self._seen.append((seconds, count))
        while seconds - self._seen[0][0] > self._over_s:
            self._seen.popleft()
        first, before = self._seen[0]
        return (count - before) / (seconds - first) if seconds > first else 0.0


class Lately:
    """The unsafe share of what was scored in the last seconds: that of all traffic hides what a promotion did."""

    def __init__(self, over_s: float = 10.0) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def at(self, seconds: float, scored: int, unsafe: int) -> str:
        """Note the counts at ``seconds``; the share among the newest of them, or that there are none."""
        self._seen.append((seconds, scored, unsafe))
        while seconds - self._seen[0][0] > self._over_s:
            self._seen.popleft()
        _, scored_before, unsafe_before = self._seen[0]
        new = scored - scored_before
        return f"{100 * (unsafe - unsafe_before) / new:.1f} % of {new} answers" if new else "no answers"


def table(
    progress: Progress, answered: int, seconds: float, phase: str, rate: float, lately: str = ""
) -> Table:
    """The live view, at most 80 characters wide.

    ``rate`` is that of reading, in answers a second; ``lately`` the unsafe share of the last seconds.
    """
    share = f"{100 * progress.unsafe / progress.scored:.1f} %" if progress.scored else "-"
    again = f"{100 * progress.safer / progress.asked_again:.1f} %" if progress.asked_again else "-"
    shown = Table(
        title=f"Sentinel Loop demonstration: {phase} ({seconds:.0f} s)",
        title_justify="left",
        caption="\n".join(_below(progress, lately)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    cells = {
        "answers": str(answered),
        "read": str(progress.records),
        "per s": f"{rate:.1f}",
        "behind": str(max(0, answered - progress.records)),
        "unsafe": str(progress.unsafe),
        "share": share,
        "asked again": str(progress.asked_again),
        "safe then": again,
        "pairs": str(progress.pairs),
    }
    for heading in cells:
        # As wide as a full share, and headings of two words in two lines: a view that moves cannot be read.
        wide = 7 if heading in {"share", "safe then"} else 5
        shown.add_column(
            heading.replace(" then", "\nthen").replace(" again", "\nagain"), justify="right", min_width=wide
        )
    shown.add_row(*cells.values())
    return shown


def _below(progress: Progress, lately: str) -> list[str]:
    return [
        *([f"unsafe in the last seconds: {lately}"] if lately else []),
        f"in service: {progress.in_service or 'the base'}",
        f"training run: {_run(progress)}",
    ]


def _run(progress: Progress) -> str:
    if not progress.run_state:
        return "none"
    if progress.run_state != "running":
        return progress.run_state
    return f"{progress.run_step or 'starting'} {100 * progress.run_share:.0f} %"
