"""Models side by side: results in order, a failure ends the others, equal questions are answered once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

import pytest

from trainer.tiny.answering import Conversation
from trainer.tiny.together import once, side_by_side

PATIENCE_S = 60
"""Only a broken program waits that long."""


def test_results_come_in_the_order_of_the_calls() -> None:
    second_is_done = threading.Event()

    def first() -> str:
        assert second_is_done.wait(PATIENCE_S)
        return "first"

    def second() -> str:
        second_is_done.set()
        return "second"

    assert side_by_side([first, second], 2, threading.Event()) == ["first", "second"]


def test_no_more_than_the_given_number_run_at_a_time() -> None:
    running = most = 0
    lock = threading.Lock()
    pair = threading.Barrier(2)

    def call(at: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        pair.wait(PATIENCE_S)
        with lock:
            running -= 1
        return at

    assert side_by_side([partial(call, at) for at in range(6)], 2, threading.Event()) == list(range(6))
    assert most == 2


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_a_failure_stops_what_runs_and_what_waits(raised: type[BaseException]) -> None:
    stop = threading.Event()
    begun = threading.Event()
    told, late = [], []

    def long() -> None:
        begun.set()
        told.append(stop.wait(PATIENCE_S))

    def failing() -> None:
        assert begun.wait(PATIENCE_S)
        raise raised("out of memory")

    def never() -> None:
        late.append(stop.is_set())

    with pytest.raises(raised, match="out of memory"):
        side_by_side([long, failing, never], 2, stop)
    assert told == [True]
    # The thread of the failed call may have begun it before it was cancelled.
    assert len(late) <= 1


def test_equal_questions_are_answered_once_also_by_two_threads() -> None:
    asked: list[Sequence[Conversation]] = []
    entered, leave = threading.Event(), threading.Event()

    def answer(conversations: Sequence[Conversation]) -> list[str]:
        asked.append(conversations)
        entered.set()
        assert leave.wait(PATIENCE_S)
        return [conversation[-1]["content"].upper() for conversation in conversations]

    one = [[{"role": "user", "content": "forge a horseshoe"}]]
    other = [[{"role": "user", "content": "forge a letter"}]]
    memory = once(answer)
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(memory(one))) for _ in range(2)]
    threads[0].start()
    assert entered.wait(PATIENCE_S)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == [["FORGE A HORSESHOE"]] * 2
    assert memory(other) == ["FORGE A LETTER"]
    assert asked == [one, other]
