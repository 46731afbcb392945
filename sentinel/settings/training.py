"""Settings of what starts a training run, and of the process that works on it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from sentinel.settings.section import Count, Days, Fraction, Seconds, Section, Strings


class NewPairs(Section):
    """Fires at a number of fresh preference pairs: those that no earlier run of the served model saw."""

    enabled: bool = Field(True, description="Whether this rule is looked at.")
    count: Count = Field(200, description="Fresh pairs at which it fires.")


class UnsafeRate(Section):
    """Fires where the unsafe share of the window's answers uses up an error budget."""

    enabled: bool = Field(True, description="Whether this rule is looked at.")
    budget: Fraction = Field(0.01, description="Share of answers that may be unsafe; fires at that share.")
    min_answers: Count = Field(500, description="Answers in the window below which no rate is told.")


class AdapterAge(Section):
    """Notifies when the adapter in service is old, and starts a run once fresh pairs suffice."""

    enabled: bool = Field(True, description="Whether this rule is looked at.")
    days: Days = Field(30, description="Age at which it fires; a base without adapter has no age.")


class Drift(Section):
    """Notifies when the mix of verdicts moved away from the period before, and starts a run as age does."""

    enabled: bool = Field(True, description="Whether this rule is looked at.")
    psi: Annotated[float, Field(gt=0)] = Field(
        0.25, description="Population stability index at which it fires; 0.25 is a large shift by custom."
    )
    min_answers: Count = Field(
        500, description="Answers in window and period each, below which none is told."
    )
    reference_s: Seconds = Field(86_400.0, description="Length of the period before the window.")


class Triggers(Section):
    """When the daemon starts a training run by itself."""

    enabled: bool = Field(
        True, description="Whether rules are looked at; `sentinel train start` works anyhow."
    )
    check_interval_s: Seconds = Field(30.0, description="Time between two looks at the rules.")
    window_s: Seconds = Field(3600.0, description="Window over which rates and mixes are taken.")
    cooldown_s: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="Time after the end of a run of the same served model before the next one."
    )
    rearm: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.8, description="A rule that fired may fire again once its value was below threshold x rearm."
    )
    min_fresh_pairs: Count = Field(50, description="Fresh pairs without which no rule starts a run.")
    max_client_share: Fraction = Field(
        0.5,
        description="Part of a number of pairs that one client (tenant and source) may make up, among several.",
    )
    new_pairs: NewPairs = Field(default_factory=NewPairs, description="Number of fresh pairs.")
    unsafe_rate: UnsafeRate = Field(default_factory=UnsafeRate, description="Share of unsafe answers.")
    adapter_age: AdapterAge = Field(default_factory=AdapterAge, description="Age of the adapter in service.")
    drift: Drift = Field(default_factory=Drift, description="Shift of the verdict mix.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # The rule would cross again and again, and never be let through.
        if self.new_pairs.enabled and self.new_pairs.count < self.min_fresh_pairs:
            raise ValueError("new_pairs.count must be at least min_fresh_pairs")
        return self


class Training(Section):
    """The trainer: how a run is made and watched."""

    recipe: str = Field("default", min_length=1, description="Recipe: a name in configs/train, or a path.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        1, description="Seed of everything in a run: choice of rows, initial weights, order."
    )
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        3, description="Starts of one run, after which it has failed; a stop of the trainer does not count."
    )
    retry_pause_s: Annotated[float, Field(ge=0)] = Field(
        30.0, description="Pause before a failed start is repeated."
    )
    heartbeat_timeout_s: Annotated[float, Field(ge=1)] = Field(
        60.0, description="Silence of a trainer after which another one takes its job over."
    )
    poll_interval_s: Seconds = Field(
        5.0, description="Time between two looks for jobs, where no notification comes."
    )
    report_interval_s: Seconds = Field(
        2.0, description="Time between two reports (heartbeat, progress, end of the log) of a run."
    )
    kill_grace_s: Seconds = Field(
        30.0, description="Time for a run to end after SIGTERM, before it is killed."
    )
    launcher: Strings = Field(
        (),
        description="Command put before a run's own, for example: nice, -n, 10. It must exec its arguments.",
    )
    serving_concurrency: Count = Field(
        4, description="Promotions and rollbacks under way at the same time; they never wait for training."
    )
