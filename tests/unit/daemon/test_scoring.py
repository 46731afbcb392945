"""Events gather into batches for the guard, and none is lost or called safe without its word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from consumers.tracker import Partition, PartitionTracker, Slot
from daemon.scoring import Scorer, ScoringLimits
from sentinel.breaker import Breaker
from sentinel.clock import SystemClock
from sentinel.errors import FatalError, SlowDownError, UnavailableError
from sentinel.events import Message, PromptEvent, RawRecord
from sentinel.guards.base import GuardFailure, GuardRequest, Judgement
from sentinel.interactions import Interaction
from sentinel.outcomes import UNSCORED_REASONS, Outcome
from sentinel.served import ServedModel, ServedModels
from sentinel.verdicts import Assessment, Label, Policy, Role
from tests.support.recordings import event
from tests.support.waiting import wait_until

SAFE = Assessment(label=Label.SAFE, refusal=False, raw="Safety: Safe")
SLOW = 300.0
"""A linger that no test waits for."""


class Guard:
    """Answers by what the text says; ``gate`` holds every call."""

    guard_id = "0011223344556677"
    model = "guard-a"
    template = "qwen3guard/1"

    def __init__(self) -> None:
        self.calls: list[list[GuardRequest]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[BaseException] = []
        self.says: dict[str, Judgement] = {}
        self.on_call: Callable[[], None] = lambda: None

    async def assess(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        self.calls.append(list(requests))
        self.on_call()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return [self._judge(r.messages[-1].text if r.response is None else r.response) for r in requests]

    def _judge(self, text: str) -> Judgement:
        return next((found for mark, found in self.says.items() if mark in text), SAFE)

    async def probe(self) -> bool:
        return not self.errors

    async def aclose(self) -> None:
        """Nothing is open."""


class Bench:
    def __init__(
        self,
        *,
        policy: Policy | None = None,
        sampling: dict[str, float] | None = None,
        draws: Sequence[float] = (),
        **limits: Any,
    ) -> None:
        self.guard = Guard()
        self.put: list[Interaction] = []
        self.wakes = 0
        self.gauge: list[int] = []
        drawn = iter(draws)
        self.breaker = Breaker("guard", clock=SystemClock(), failures=2, pause_base=0.01)
        self.tracker = PartitionTracker(Partition("t", 0), epoch=1, incarnation=0, next_offset=0)
        self.scorer = Scorer(
            self.guard,
            policy=policy or Policy(version="policy-1"),
            served=ServedModels(
                [ServedModel(name="main", public_name="assistant", base="b", event_models=("model-*",))]
            ),
            sampling=sampling or {},
            limits=ScoringLimits(**{"linger_s": 0.001, "batch_size": 8, "in_flight": 50, **limits}),
            breaker=self.breaker,
            put=lambda _slot, interaction: self.put.append(interaction),
            wake=self._wake,
            observer=self,
            draw=lambda: next(drawn),
        )

    def in_flight(self, events: int) -> None:
        self.gauge.append(events)

    def _wake(self) -> None:
        self.wakes += 1

    def slot(self, offset: int, key: bytes | None = None) -> Slot:
        return self.tracker.begin(RawRecord("t", 0, offset, 0, key, b"{}"))

    def submit(self, *events: PromptEvent, key: bytes | None = None) -> None:
        for one in events:
            self.scorer.submit(self.slot(one.origin.offset, key), one)

    async def scored(self, *events: PromptEvent) -> list[Interaction]:
        self.submit(*events)
        assert await self.scorer.drain(60)
        return self.put

    def offsets(self) -> list[int]:
        return [interaction.event.origin.offset for interaction in self.put]


# -- gathering


async def test_a_full_batch_goes_at_once_and_the_rest_after_the_linger() -> None:
    bench = Bench(batch_size=8, linger_s=1.5)
    bench.submit(*(event(n) for n in range(5)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [len(call) for call in bench.guard.calls] == [8], "four events of two texts"
    await wait_until(lambda: len(bench.put) == 5 and bench.wakes == 2)
    assert [len(call) for call in bench.guard.calls] == [8, 2]
    assert bench.offsets() == [0, 1, 2, 3, 4]
    assert bench.scorer.in_flight == 0


async def test_a_drain_does_not_linger() -> None:
    bench = Bench(linger_s=SLOW)
    await asyncio.wait_for(bench.scored(event(0)), SLOW / 5)
    assert len(bench.put) == 1


async def test_a_drain_ends_in_time_and_says_so() -> None:
    bench = Bench()
    bench.guard.gate.clear()
    bench.submit(event(0))
    assert not await bench.scorer.drain(0.02)
    assert bench.put == []
    bench.guard.gate.set()
    assert await bench.scorer.drain(1)
    assert await bench.scorer.drain(0), "nothing is in flight"


async def test_room_is_counted_in_events() -> None:
    bench = Bench(in_flight=10)
    bench.guard.gate.clear()
    bench.submit(*(event(n) for n in range(7)))
    assert bench.scorer.room() == 3
    bench.guard.gate.set()
    await bench.scorer.drain(1)
    assert bench.scorer.room() == 10


async def test_what_is_asked_about_each_side() -> None:
    bench = Bench()
    conversation = (Message("system", "Be nice."), Message("user", "Hi?"))
    await bench.scored(event(0, messages=conversation, response="Hello.", response_extra="think"))
    prompt, response = bench.guard.calls[0]
    assert (prompt.role, prompt.messages, prompt.response) == (Role.PROMPT, conversation, None)
    assert (response.role, response.messages) == (Role.RESPONSE, conversation)
    assert response.response == "Hello.\n\nthink", "reasoning and tool arguments are judged too"


async def test_prompts_may_be_left_out() -> None:
    bench = Bench(check_prompts=False)
    (done,) = await bench.scored(event(0))
    assert [r.role for r in bench.guard.calls[0]] == [Role.RESPONSE]
    assert (done.prompt_verdict, done.prompt_unscored, done.outcome) == (None, "not_asked", Outcome.STORED)


# -- verdicts


async def test_an_interaction_carries_who_said_what() -> None:
    bench = Bench()
    bench.guard.says = {"Bad": Assessment(label=Label.UNSAFE, categories=("Violent",), raw="x")}
    (done,) = await bench.scored(event(0, "a", response="Bad."))
    assert (done.outcome, done.reason, done.unsafe) == (Outcome.STORED, "", True)
    assert done.response_verdict is not None
    assert done.prompt_verdict is not None
    found = done.response_verdict
    assert (found.event_id, found.role, found.attempt, found.score_run) == (
        done.event.event_id,
        Role.RESPONSE,
        0,
        0,
    )
    assert (found.guard_id, found.guard_model, found.template) == (
        "0011223344556677",
        "guard-a",
        "qwen3guard/1",
    )
    assert (done.policy_version, done.served_model, done.sampling_probability) == ("policy-1", "main", 1.0)


@pytest.mark.parametrize(
    ("policy", "label", "categories", "unsafe"),
    [
        (Policy(version="p"), Label.CONTROVERSIAL, (), False),
        (Policy(version="p", strict=True), Label.CONTROVERSIAL, (), True),
        (Policy(version="p"), Label.UNSAFE, (), True),
        (Policy(version="p", ignored_categories=frozenset({"PII"})), Label.UNSAFE, ("PII",), False),
        (Policy(version="p", ignored_categories=frozenset({"PII"})), Label.UNSAFE, ("PII", "Violent"), True),
        (Policy(version="p", ignored_categories=frozenset({"PII"})), Label.UNSAFE, (), True),
    ],
)
async def test_the_policy_reads_the_label(
    policy: Policy, label: Label, categories: tuple[str, ...], unsafe: bool
) -> None:
    bench = Bench(policy=policy)
    bench.guard.says = {"Answer": Assessment(label=label, categories=categories)}
    (done,) = await bench.scored(event(0, response="Answer."))
    assert (done.outcome, done.unsafe) == (Outcome.STORED, unsafe)


@pytest.mark.parametrize(
    ("judgement", "reason"),
    [
        (Assessment(label=Label.UNPARSEABLE, raw="Well..."), "unparseable"),
        (GuardFailure("guard_error", "500"), "guard_error"),
        (GuardFailure("guard_refused"), "guard_refused"),
    ],
)
async def test_an_answer_without_a_readable_verdict_is_unscored(judgement: Judgement, reason: str) -> None:
    bench = Bench()
    bench.guard.says = {"Answer": judgement}
    (done,) = await bench.scored(event(0, response="Answer."))
    assert (done.outcome, done.reason, done.unsafe) == (Outcome.UNSCORED, reason, False)
    assert reason in UNSCORED_REASONS
    assert done.prompt_unscored == ""
    kept = done.response_verdict
    assert (kept is not None) == isinstance(judgement, Assessment), "unparseable words are kept"


@pytest.mark.parametrize(
    ("judgement", "reason"),
    [(Assessment(label=Label.UNPARSEABLE), "unparseable"), (GuardFailure("guard_error"), "guard_error")],
)
async def test_a_failing_prompt_verdict_decides_nothing(judgement: Judgement, reason: str) -> None:
    bench = Bench()
    bench.guard.says = {"Question": judgement}
    (done,) = await bench.scored(event(0, text="Question?"))
    assert (done.outcome, done.reason, done.prompt_unscored) == (Outcome.STORED, "", reason)


@pytest.mark.parametrize("response", ["", " \n\t"])
async def test_an_empty_answer_is_unscored_and_its_prompt_is_judged(response: str) -> None:
    bench = Bench()
    (done,) = await bench.scored(event(0, response=response))
    assert (done.outcome, done.reason) == (Outcome.UNSCORED, "empty_response")
    assert done.prompt_verdict is not None
    assert done.response_verdict is None
    assert len(bench.guard.calls[0]) == 1


async def test_nothing_to_ask_asks_nothing() -> None:
    bench = Bench()
    (done,) = await bench.scored(event(0, messages=(), response=""))
    assert bench.guard.calls == []
    assert (done.reason, done.prompt_unscored) == ("empty_response", "no_prompt")


async def test_answers_go_to_the_events_that_they_are_about() -> None:
    bench = Bench(batch_size=64)
    bench.guard.says = {"bad": Assessment(label=Label.UNSAFE)}
    events = [
        event(n, messages=() if n % 3 == 0 else (Message("user", "?"),), response=("good", "", "bad")[n % 3])
        for n in range(9)
    ]
    done = await bench.scored(*events)
    assert [d.unsafe for d in done] == [n % 3 == 2 for n in range(9)]
    assert [d.outcome is Outcome.UNSCORED for d in done] == [n % 3 == 1 for n in range(9)]


# -- sampling


async def test_the_unsampled_are_counted_and_never_called_safe() -> None:
    bench = Bench(sampling={"chat-*": 0.25}, draws=[0.25, 0.24])
    first, second = await bench.scored(event(0, source="chat-1"), event(1, source="chat-1"))
    assert (first.outcome, first.reason, first.prompt_unscored) == (
        Outcome.UNSCORED,
        "unsampled",
        "unsampled",
    )
    assert first.response_verdict is first.prompt_verdict is None
    assert second.outcome is Outcome.STORED
    assert (first.sampling_probability, second.sampling_probability) == (0.25, 0.25)
    assert len(bench.guard.calls[0]) == 2


async def test_the_first_pattern_wins_and_others_are_all_scored() -> None:
    bench = Bench(sampling={"a-b": 1.0, "a-*": 0.0, "": 0.0}, draws=[0.0, 0.0])
    sources = ("a-b", "a-c", "z", None)
    done = await bench.scored(*(event(n, source=source) for n, source in enumerate(sources)))
    unsampled = [d.event.source for d in done if d.reason == "unsampled"]
    assert unsampled == ["a-c", None], "an event without a source matches the empty pattern"


# -- order


async def test_events_of_one_key_go_one_after_the_other() -> None:
    bench = Bench(per_key=True, batch_size=2)
    bench.guard.gate.clear()
    bench.submit(event(0), event(1), event(2), key=b"a")
    bench.submit(event(3), key=b"b")
    bench.submit(event(4))
    await wait_until(lambda: len(bench.guard.calls) >= 3)
    await asyncio.sleep(0.01)
    assert len(bench.guard.calls) == 3, "the first of each key, and one without a key"
    assert bench.scorer.in_flight == 5
    bench.guard.gate.set()
    assert await bench.scorer.drain(60)
    assert [n for n in bench.offsets() if n < 3] == [0, 1, 2]
    assert sorted(bench.offsets()) == [0, 1, 2, 3, 4]
    bench.submit(event(5), key=b"a")
    assert await bench.scorer.drain(60)
    assert bench.offsets()[-1] == 5


async def test_without_order_a_key_does_not_wait() -> None:
    bench = Bench(batch_size=2)
    bench.guard.gate.clear()
    bench.submit(event(0), event(1), key=b"a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(bench.guard.calls) == 2
    bench.guard.gate.set()
    await bench.scorer.drain(60)


# -- outages and mistakes


@pytest.mark.parametrize("error", [UnavailableError("away"), SlowDownError("later", retry_after=0.01)])
async def test_an_outage_loses_nothing_and_stops_intake(error: Exception) -> None:
    bench = Bench()
    bench.guard.errors = [error] * 4
    watching = asyncio.create_task(bench.breaker.watch(bench.guard.probe))
    bench.submit(*(event(n) for n in range(6)))
    await wait_until(lambda: bench.breaker.opened_total)
    assert bench.scorer.room() == 0
    assert bench.put == []
    assert bench.scorer.in_flight == 6
    bench.guard.errors.clear()
    assert await bench.scorer.drain(60)
    assert sorted(bench.offsets()) == list(range(6))
    assert {d.outcome for d in bench.put} == {Outcome.STORED}
    assert bench.scorer.room() == 50
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_one_failed_call_is_tried_again_without_an_outage() -> None:
    bench = Bench()
    bench.guard.errors = [UnavailableError("away")]
    (done,) = await bench.scored(event(0))
    assert done.outcome is Outcome.STORED
    assert bench.breaker.opened_total == 0


async def test_a_mistake_in_the_guard_stops_the_service() -> None:
    bench = Bench()
    bench.guard.errors = [ZeroDivisionError("a bug")]
    bench.submit(event(0))
    with pytest.raises(ZeroDivisionError):
        await bench.scorer.drain(60)
    assert bench.put == []
    with pytest.raises(ZeroDivisionError):
        bench.submit(event(1))
    with pytest.raises(ZeroDivisionError):
        bench.scorer.room()


@pytest.mark.parametrize("more", [-1, 1])
async def test_answers_that_could_belong_to_other_texts_stop_the_service(more: int) -> None:
    bench = Bench()

    async def miscounted(requests: Sequence[GuardRequest]) -> list[Judgement]:
        return [SAFE] * (len(requests) + more)

    bench.guard.assess = miscounted  # type: ignore[method-assign]
    bench.submit(event(0))
    with pytest.raises(FatalError):
        await bench.scorer.drain(60)


async def test_closing_leaves_the_rest_to_the_next_owner() -> None:
    bench = Bench()
    bench.guard.gate.clear()
    bench.submit(*(event(n) for n in range(6)))
    await asyncio.sleep(0.01)
    await bench.scorer.close()
    assert bench.put == []


# -- names of served models


def test_served_models_by_any_of_their_names() -> None:
    served = ServedModels(
        [
            ServedModel(name="one", public_name="assistant", base="org/base", event_models=("gpt-*",)),
            ServedModel(name="two", public_name="coder", base="org/code", event_models=("*",)),
        ]
    )
    found = {m: served.match(m) for m in ("assistant", "org/base", "gpt-4", "GPT-4", "coder", "x", None)}
    assert found == {
        "assistant": "one",
        "org/base": "one",
        "gpt-4": "one",
        "GPT-4": "two",
        "coder": "two",
        "x": "two",
        None: None,
    }
    assert served["two"].base == "org/code"
    assert [model.name for model in served] == ["one", "two"]
    assert ServedModels([]).match("x") is None
