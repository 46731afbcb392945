"""The demonstration's live view: rates, unsafe share, second answers, lag."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from daemon.demo.progress import Progress, table


def shown(progress: Progress, answered: int, phase: str = "traffic") -> dict[str, str]:
    """Cells by their headings."""
    view = table(progress, answered, 12.4, phase)
    cells = [next(iter(column.cells)) for column in view.columns]
    return dict(
        zip([str(column.header) for column in view.columns], [str(cell) for cell in cells], strict=True)
    )


def counts(**more: int) -> Progress:
    names = [field.name for field in msgspec.structs.fields(Progress) if field.type is int]
    return msgspec.convert({**dict.fromkeys(names, 0), **more}, Progress)


def test_nothing_yet_is_no_rate_of_zero() -> None:
    cells = shown(counts(), 0)
    assert (cells["share"], cells["safe then"], cells["training run"]) == ("-", "-", "-")


def test_rates_are_of_what_was_scored_and_asked_again() -> None:
    seen = counts(
        records=80, interactions=80, scored=80, unsafe=20, findings=20, asked_again=16, safer=12, pairs=12
    )
    cells = shown(seen, 95)
    assert (cells["answers given"], cells["read"], cells["behind"]) == ("95", "80", "15")
    assert (cells["unsafe answers"], cells["share"]) == ("20", "25.0 %")
    assert (cells["asked again"], cells["safe then"], cells["pairs"]) == ("16", "75.0 %", "12")


def test_the_view_says_where_it_stands() -> None:
    out = io.StringIO()
    Console(file=out, width=160).print(table(counts(records=3), 1, 12.4, "training and gate"))
    text = out.getvalue()
    assert "training and gate (12 s)" in text
    # Read before the log was written: never a negative lag.
    assert shown(counts(records=3), 1)["behind"] == "0"
