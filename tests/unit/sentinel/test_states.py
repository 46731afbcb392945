"""The legal moves of runs and adapters."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import pytest

from sentinel.states import ADAPTER_MOVES, RUN_MOVES, AdapterState, RunState

State = TypeVar("State", bound=StrEnum)


def reachable(moves: Mapping[State, frozenset[State]], start: State) -> set[State]:
    seen, waiting = {start}, [start]
    while waiting:
        for following in moves[waiting.pop()] - seen:
            seen.add(following)
            waiting.append(following)
    return seen


def test_every_state_has_its_moves_and_is_reached() -> None:
    assert set(RUN_MOVES) == set(RunState) == reachable(RUN_MOVES, RunState.QUEUED)
    assert set(ADAPTER_MOVES) == set(AdapterState) == reachable(ADAPTER_MOVES, AdapterState.CANDIDATE)


def test_no_state_moves_to_itself() -> None:
    assert [state for state, following in RUN_MOVES.items() if state in following] == []
    assert [state for state, following in ADAPTER_MOVES.items() if state in following] == []


@pytest.mark.parametrize(
    "state", [AdapterState.REJECTED, AdapterState.INCONCLUSIVE, AdapterState.ROLLED_BACK, AdapterState.FAILED]
)
def test_what_was_refused_never_comes_back(state: AdapterState) -> None:
    assert ADAPTER_MOVES[state] == frozenset()


def test_an_adapter_is_promoted_only_after_its_probe_or_by_a_rollback() -> None:
    before = {state for state, following in ADAPTER_MOVES.items() if AdapterState.PROMOTED in following}
    assert before == {AdapterState.PROBING, AdapterState.SUPERSEDED}
    assert ADAPTER_MOVES[AdapterState.PROMOTED] == {AdapterState.SUPERSEDED, AdapterState.ROLLED_BACK}


def test_a_finished_run_stays_finished() -> None:
    for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
        assert RUN_MOVES[state] == frozenset()
