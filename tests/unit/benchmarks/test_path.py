"""The figures of the whole path: what is compared with what, and what an unknown case says."""

from __future__ import annotations

import pytest

from benchmarks.harness import Sample
from benchmarks.path import CASES, DOCUMENTED, LATENCY, compare, figures, parse
from benchmarks.path_daemon import IN_FLIGHT
from benchmarks.peers import PEERS


def _sample(rate: float, cpu_us: float, postgres_us: float = 10.0) -> Sample:
    return Sample(
        events=1000,
        seconds=1000 / rate,
        program_cpu=cpu_us * 1e-3,
        postgres_cpu=postgres_us * 1e-3,
    )


def test_every_case_can_be_chosen_and_quick_is_one_short_repetition() -> None:
    assert parse([]).cases == CASES
    assert parse(["--only", "faust,all_tables"]).cases == ("all_tables", "faust")
    quick = parse(["--quick"])
    assert quick.repetitions == 1
    assert quick.events < parse([]).events
    assert set(DOCUMENTED) < {peer.name for peer in PEERS} < set(CASES)


def test_an_unknown_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "storm"])
    assert "unknown cases: storm; known: all_tables" in capsys.readouterr().err


def test_the_slow_guard_is_measured_against_in_flight_over_the_mean_latency() -> None:
    ceiling = IN_FLIGHT / (sum(LATENCY) / 2)
    found = {(r.case, r.metric): r.value for r in figures({"slow_guard": [_sample(ceiling * 0.9, 50)]})}
    assert found["slow_guard", "share_of_ceiling"] == pytest.approx(0.9)
    assert found["slow_guard", "throughput"] == pytest.approx(ceiling * 0.9)


def test_the_fastest_and_the_cheapest_documented_peer_are_what_counts() -> None:
    samples = {
        "one_table": [_sample(30_000, 15), _sample(28_000, 16)],
        "quix": [_sample(20_000, 40), _sample(20_000, 40)],
        "faust": [_sample(10_000, 30), _sample(14_000, 32)],
        # A tuned peer is listed but not what the aim is about.
        "faststream_tuned": [_sample(90_000, 1), _sample(90_000, 1)],
    }
    found = {(r.case, r.metric): r for r in figures(samples)}
    rate = found["one_table", "throughput_times_best_peer (quix)"]
    assert [rate.low, rate.high] == pytest.approx([1.4, 1.5])
    assert rate.n == 2
    cost = found["one_table", "program_cpu_times_best_peer (faust)"]
    assert cost.value == pytest.approx(2.0)
    assert found["faststream_tuned", "throughput"].value == pytest.approx(90_000)


def test_without_peers_nothing_is_compared() -> None:
    assert [r.metric for r in figures({"one_table": [_sample(30_000, 15)]})] == [
        "throughput",
        "program_cpu",
        "postgres_cpu",
    ]
    with pytest.raises(ValueError, match="empty"):
        compare([_sample(1, 1)], {})
