"""An outage of the loop is said once, shown while it lasts, and not ended by a turn that met nothing."""

from __future__ import annotations

import datetime as dt

import pytest

from consumers import outage as outages
from consumers.outage import DENIAL_QUIET_S, Outage
from sentinel.clock import ManualClock
from sentinel.errors import DeniedError, UnavailableError
from tests.support.loop_bench import A, Bench, Notes
from tests.support.waiting import wait_until

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
KAFKA = UnavailableError("no brokers", target="kafka")
DATABASE = UnavailableError("no database", target="database")
DENIED = DeniedError("grant READ", target="kafka")


class Lines:
    """Counts log lines by level."""

    def __init__(self) -> None:
        self.levels: list[str] = []

    def error(self, _: str, **__: object) -> None:
        self.levels.append("error")

    def info(self, _: str, **__: object) -> None:
        self.levels.append("info")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    made = Lines()
    monkeypatch.setattr(outages, "_log", made)
    return made


def test_each_kind_is_logged_once_and_its_end(lines: Lines) -> None:
    notes = Notes()
    outage = Outage(notes, ManualClock(NOW))
    outage.back()
    assert notes.waits == lines.levels == []
    for error in (KAFKA, KAFKA, DATABASE):
        outage.away(error)
    assert (outage.text, lines.levels) == ("no database", ["error", "error"])
    outage.back()
    outage.back()
    assert (outage.text, lines.levels) == ("", ["error", "error", "info"])
    assert notes.waits == ["kafka", "kafka", "database", ""]


def test_a_denial_stays_until_none_came_for_a_while(lines: Lines) -> None:
    """One topic is denied, the others deliver: turns that work lie between the refusals."""
    clock = ManualClock(NOW)
    outage = Outage(Notes(), clock)
    for _ in range(20):
        outage.away(DENIED)
        clock.advance(DENIAL_QUIET_S / 2)
        outage.back()
        outage.away(KAFKA)
    assert (outage.text, lines.levels) == ("grant READ", ["error"])
    clock.advance(DENIAL_QUIET_S)
    outage.back()
    assert (outage.text, lines.levels) == ("", ["error", "info"])


async def test_a_denial_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "DENIAL_QUIET_S", 0.1)
    bench = Bench({A: 5})
    bench.source.away = DENIED
    async with bench.running() as task:
        await wait_until(lambda: bench.loop.outage == "grant READ")
        assert not bench.loop.ready
        assert not task.done()
        bench.source.away = None
        await bench.handed(5)
        await wait_until(lambda: not bench.loop.outage)
    assert bench.notes.waits[0] == "kafka"
    assert bench.notes.waits[-1] == ""
