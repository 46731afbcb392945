"""The judge never saw the cells of the grids that are kept for it; the guard that labels traffic did."""

from __future__ import annotations

import random

import pytest

from sentinel.tiny.artefacts import Model
from sentinel.tiny.prompts import Kind, Request
from sentinel.tiny.splits import reserved
from trainer.tiny import rows
from trainer.tiny.building import RECIPES

ROWS = 4_000


def _cells(model: Model, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Cells of the grids of which a text came into that model's rows."""
    drawn: list[Request] = []
    request = rows.request

    def noted(rng: random.Random) -> Request:
        drawn.append(request(rng))
        return drawn[-1]

    monkeypatch.setattr(rows, "request", noted)
    rng = random.Random(1)
    made = [RECIPES[model].source(rng) for _ in range(ROWS)]
    asked = {text for row in made for speaker, text in row.messages if speaker == "user"}
    return {one.cell for one in drawn if one.kind is not Kind.FACT and one.text in asked}


def test_the_judge_has_a_split_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        judge = _cells(Model.GUARD_B, patched)
    with monkeypatch.context() as patched:
        guard = _cells(Model.GUARD_A, patched)
    assert not [cell for cell in judge if reserved("guard-b", cell)]
    assert len([cell for cell in guard if reserved("guard-b", cell)]) > 20
    assert len(judge) > 100
