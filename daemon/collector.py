"""Python's cycle collector, set for a process that holds thousands of events at a time.

Its defaults look at every container after 700 new ones. Events are such containers, live for a second and form
no cycles, so at full load a third of the daemon's processor time went into looking at them (measured with
`python -m benchmarks.path`). Reference counting frees them either way; the collector stays on for the cycles
that errors and closed connections leave behind.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000
"""New containers between two looks at the young ones; what is in flight is a fraction of that."""


def calm() -> None:
    """Leave what is loaded now out of every later look, and look less often. Process-wide; for commands only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
