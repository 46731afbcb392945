"""When requests arrive: a Poisson process, as independent users make one."""

from __future__ import annotations

import random
from collections.abc import Iterator


def gaps(rate: float, rng: random.Random) -> Iterator[float]:
    """Seconds between arrivals, for ever: exponentially distributed with mean 1 / ``rate``.

    ``rate`` is in arrivals a second. Raises ValueError unless it is positive.
    """
    if rate <= 0:
        raise ValueError("the rate must be positive")
    while True:
        yield rng.expovariate(rate)
