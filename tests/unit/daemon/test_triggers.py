"""The trigger rules: once for each crossing, hysteresis, cool-down, what holds a run back, one client's share."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.triggers.rules import NOTIFYING, Act, Obstacles, Rule, counted, decide, stability_index
from sentinel.clock import ManualClock
from sentinel.settings import Triggers
from sentinel.store.triggers import RuleState

FREE = Obstacles()
THRESHOLD, REARM = 100.0, 0.8


@dataclass
class OneRule:
    """A rule over time: applies each act to its state as the store does, and keeps a run that ends at once."""

    rule: Rule = Rule.NEW_PAIRS
    cooldown: dt.timedelta = dt.timedelta(0)
    clock: ManualClock = field(default_factory=ManualClock)
    state: RuleState = field(default_factory=RuleState)
    runs: list[dt.datetime] = field(default_factory=list)
    notices: int = 0

    def look(self, value: float | None, **obstacles: bool) -> Act:
        cooling = bool(self.runs) and self.clock.now() - self.runs[-1] < self.cooldown
        there = Obstacles(**{"cooling": cooling, **obstacles})
        act = decide(self.rule, value, THRESHOLD, REARM, self.state, there)
        crossing = self.state.crossing
        if act is Act.REARM:
            self.state = RuleState(armed=True, crossing=crossing)
        elif act in (Act.FIRE, Act.NOTIFY):
            self.state = RuleState(armed=False, crossing=crossing + 1, open=act is Act.NOTIFY)
            self.notices += act is Act.NOTIFY
        elif act is Act.FOLLOW_UP:
            self.state = RuleState(armed=False, crossing=crossing)
        if act in (Act.FIRE, Act.FOLLOW_UP):
            self.runs.append(self.clock.now())
        self.clock.advance(60)
        return act


def test_it_fires_once_for_a_crossing() -> None:
    rule = OneRule()
    assert [rule.look(value) for value in (99.9, 100, 150, 300)] == [
        Act.NOTHING, Act.FIRE, Act.NOTHING, Act.NOTHING,
    ]  # fmt: skip
    assert rule.state.crossing == 1


def test_a_value_that_flutters_about_the_threshold_fires_once() -> None:
    rule = OneRule()
    for value in (100, 99, 101, 85, 110, 80.0, 120):
        rule.look(value)
    assert len(rule.runs) == 1
    assert rule.look(79.9) is Act.REARM
    assert rule.look(99) is Act.NOTHING
    assert rule.look(100) is Act.FIRE
    assert rule.state.crossing == 2


def test_nothing_follows_from_a_value_that_cannot_be_told() -> None:
    rule = OneRule()
    assert rule.look(None) is Act.NOTHING
    rule.look(100)
    assert rule.look(None) is Act.NOTHING
    assert not rule.state.armed


def test_after_the_cool_down_what_is_still_crossed_fires() -> None:
    rule = OneRule(cooldown=dt.timedelta(minutes=10))
    assert rule.look(100) is Act.FIRE
    assert rule.look(0) is Act.REARM
    acts = [rule.look(200) for _ in range(9)]
    assert acts == [Act.WAIT] * 8 + [Act.FIRE]
    assert rule.runs[1] - rule.runs[0] >= dt.timedelta(minutes=10)


@pytest.mark.parametrize("obstacle", ["frozen", "busy", "cooling", "few_pairs"])
@pytest.mark.parametrize("rule", list(Rule))
def test_what_holds_a_run_back_leaves_the_crossing_for_later(rule: Rule, obstacle: str) -> None:
    one = OneRule(rule)
    expected = Act.NOTIFY if rule in NOTIFYING and obstacle == "few_pairs" else Act.WAIT
    assert one.look(150, **{obstacle: True}) is expected
    assert one.runs == []
    assert one.look(150) is (Act.FOLLOW_UP if expected is Act.NOTIFY else Act.FIRE)
    assert [one.look(150), len(one.runs), one.state.crossing] == [Act.NOTHING, 1, 1]


def test_age_says_so_once_and_starts_its_run_when_pairs_suffice() -> None:
    age = OneRule(Rule.ADAPTER_AGE)
    acts = [age.look(100, few_pairs=True) for _ in range(3)]
    assert acts == [Act.NOTIFY, Act.NOTHING, Act.NOTHING]
    assert age.look(100, few_pairs=True, busy=True) is Act.NOTHING
    assert age.look(110) is Act.FOLLOW_UP
    assert age.look(120) is Act.NOTHING
    assert (age.notices, len(age.runs)) == (1, 1)


def test_a_notice_that_was_armed_again_starts_nothing_any_more() -> None:
    drift = OneRule(Rule.DRIFT)
    drift.look(100, few_pairs=True)
    assert drift.look(10) is Act.REARM
    assert drift.look(90) is Act.NOTHING
    assert drift.runs == []


def test_a_run_that_failed_before_it_took_a_pair_gives_its_crossing_back_after_the_cool_down() -> None:
    void = RuleState(armed=False, crossing=3, void=True)
    decided = [
        decide(Rule.NEW_PAIRS, 500, THRESHOLD, REARM, void, obstacles)
        for obstacles in (Obstacles(cooling=True), Obstacles(busy=True), FREE)
    ]
    assert decided == [Act.NOTHING, Act.NOTHING, Act.REARM]


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 300)), max_size=60),
    st.sampled_from(list(Rule)),
    st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_between_two_firings_it_was_below_the_rearming_point(
    values: list[float | None], rule: Rule, few: list[bool]
) -> None:
    one = OneRule(rule)
    below = True
    for value, few_pairs in zip(values, few, strict=False):
        act = one.look(value, few_pairs=few_pairs)
        if act in (Act.FIRE, Act.NOTIFY):
            assert below
            assert value is not None
            assert value >= THRESHOLD
            below = False
        elif act is Act.REARM:
            below = True
    assert len(one.runs) <= one.state.crossing


# -- one client's share


def test_a_flood_of_one_client_among_several_never_reaches_the_number() -> None:
    pairs = {("attacker", "app"): 100_000, ("", "app"): 30}
    assert counted(pairs, 200, 0.5, several_clients=True) == 130
    assert counted({("attacker", "app"): 100_000}, 200, 0.5, several_clients=True) == 100


def test_a_client_that_is_alone_counts_whole() -> None:
    assert counted({("", "app"): 250}, 200, 0.5, several_clients=False) == 250
    assert counted({}, 200, 0.5, several_clients=False) == 0


def test_several_clients_reach_the_number_together() -> None:
    assert counted({("a", ""): 90, ("b", ""): 110, ("c", ""): 20}, 200, 0.5, several_clients=True) == 210


# -- drift


def test_equal_mixes_have_no_index() -> None:
    mix = {"safe": 900, "unsafe": 100}
    assert stability_index(mix, mix) == pytest.approx(0)
    assert stability_index({}, {}) == 0


def test_the_index_is_the_published_sum() -> None:
    now, before = {"a": 3_000_000, "b": 7_000_000}, {"a": 5_000_000, "b": 5_000_000}
    by_hand = (0.3 - 0.5) * math.log(0.3 / 0.5) + (0.7 - 0.5) * math.log(0.7 / 0.5)
    assert stability_index(now, before) == pytest.approx(by_hand, rel=1e-4)


def test_a_kind_that_is_new_makes_no_infinity() -> None:
    index = stability_index({"safe": 900, "unsafe": 100}, {"safe": 1000})
    assert 0.25 < index < 2


# -- settings


def test_a_rule_that_could_never_start_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least min_fresh_pairs"):
        Triggers.model_validate({"min_fresh_pairs": 50, "new_pairs": {"count": 49}})
    Triggers.model_validate({"min_fresh_pairs": 50, "new_pairs": {"count": 49, "enabled": False}})
