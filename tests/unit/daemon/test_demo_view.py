"""The demonstration's live view: rates, unsafe share, second answers, lag."""

from __future__ import annotations

import io
import re

import msgspec
from rich.console import Console

from daemon.demo.progress import Lately, Progress, Rate, table


def shown(progress: Progress, answered: int, phase: str = "traffic") -> dict[str, str]:
    """Cells by their headings."""
    view = table(progress, answered, 12.4, phase, 7.25)
    cells = [next(iter(column.cells)) for column in view.columns]
    return dict(
        zip(
            [str(column.header).replace("\n", " ") for column in view.columns],
            [str(cell) for cell in cells],
            strict=True,
        )
    )


def counts(**more: int) -> Progress:
    names = [field.name for field in msgspec.structs.fields(Progress) if field.type is int]
    return msgspec.convert({**dict.fromkeys(names, 0), **more}, Progress)


def test_nothing_yet_is_no_rate_of_zero() -> None:
    cells = shown(counts(), 0)
    assert (cells["share"], cells["safe then"]) == ("-", "-")
    assert drawn(counts(), 0).endswith("training run: none")


def test_rates_are_of_what_was_scored_and_asked_again() -> None:
    seen = counts(
        records=80, interactions=80, scored=80, unsafe=20, findings=20, asked_again=16, safer=12, pairs=12
    )
    cells = shown(seen, 95)
    assert (cells["answers"], cells["read"], cells["behind"]) == ("95", "80", "15")
    assert (cells["unsafe"], cells["share"]) == ("20", "25.0 %")
    assert (cells["asked again"], cells["safe then"], cells["pairs"]) == ("16", "75.0 %", "12")


def drawn(progress: Progress, answered: int, width: int = 80, lately: str = "") -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table(progress, answered, 12.4, "training and gate", 7.25, lately))
    return out.getvalue().rstrip()


def test_the_view_names_what_is_in_service() -> None:
    assert "in service: the base\n" in re.sub(" +\n", "\n", drawn(counts(), 0))
    promoted = msgspec.structs.replace(counts(), in_service="tiny-0123456789ab")
    text = drawn(promoted, 0, lately="0.0 % of 240 answers")
    below = ["unsafe in the last seconds: 0.0 % of 240 answers", "in service: tiny-0123456789ab"]
    assert [line.rstrip() for line in text.splitlines()][-3:-1] == below


def test_the_view_has_the_same_width_from_beginning_to_end() -> None:
    many = dict.fromkeys(("records", "scored", "unsafe", "asked_again", "safer", "pairs"), 999)
    widths = {
        max(len(line.rstrip()) for line in drawn(counts(**numbers), 999).splitlines())
        for numbers in ({}, {"scored": 9, "unsafe": 1}, many)
    }
    assert len(widths) == 1
    assert widths.pop() <= 80


def test_the_share_of_the_last_seconds_forgets_what_was_before() -> None:
    lately = Lately(over_s=10)
    assert lately.at(0.0, 0, 0) == "no answers"
    assert lately.at(5.0, 100, 100) == "100.0 % of 100 answers"
    assert lately.at(12.0, 200, 100) == "0.0 % of 100 answers"
    assert lately.at(40.0, 200, 100) == "no answers"


def test_the_view_says_where_it_stands() -> None:
    busy = msgspec.structs.replace(
        counts(records=3), run_state="running", run_step="finetune", run_share=0.42
    )
    text = drawn(busy, 1)
    assert "training and gate (12 s)" in text
    assert text.endswith("training run: finetune 42 %")
    # Read before the log was written: never a negative lag.
    assert shown(counts(records=3), 1)["behind"] == "0"


def test_a_narrow_terminal_shows_all_of_it() -> None:
    numbers = dict.fromkeys(("records", "interactions", "scored"), 99_999)
    many = counts(**numbers, unsafe=33_333, asked_again=33_333, safer=33_333, pairs=33_333)
    text = drawn(many, 99_999)
    assert "…" not in text
    for cell in ("99999", "7.2", "33.3 %", "100.0 %"):
        assert cell in text


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate(over_s=10)
    assert rate.at(0.0, 0) == 0.0
    assert rate.at(5.0, 100) == 20.0
    assert rate.at(10.0, 100) == 10.0
    # What was read before is too long ago.
    assert rate.at(15.0, 100) == 0.0
    assert rate.at(16.0, 130) == 30 / 6
