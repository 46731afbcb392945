"""One look at every rule of every served model: measure, decide, and write what follows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Struct

from daemon.triggers.rules import Act, Obstacles, Rule, counted, decide, stability_index
from sentinel import logs
from sentinel.clock import Clock
from sentinel.settings import Triggers
from sentinel.store import triggers
from sentinel.store.triggers import Answers, Client, RuleState

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_log = logs.get("daemon.triggers")

_REFERENCE_PARTS = 24
"""The period before the window is read again when a 24th of it has passed: it is long, and moves slowly."""


class Reading(Struct, frozen=True, kw_only=True):
    """A rule's value, what it is held against, and the fresh pairs towards a run."""

    value: float | None
    threshold: float
    fresh: int
    needed: int
    at: dt.datetime
    """When it was measured: the window ends here."""
    newest: dt.datetime | None
    """When the last of the fresh pairs was made."""


class Evaluator:
    """Looks at the rules. Several may look at once, in several daemons: each crossing still fires once."""

    def __init__(self, settings: Triggers, served_models: Sequence[str], recipe: str, clock: Clock) -> None:
        self._settings = settings
        self._served_models = tuple(served_models)
        self._recipe = recipe
        self._clock = clock
        self._references: dict[str, tuple[dt.datetime, Answers]] = {}
        self._waiting: dict[tuple[str, Rule], tuple[str, ...]] = {}

    async def look(self, conn: Connection) -> list[UUID]:
        """Look at every rule once; the runs that were started. Raises what asyncpg raises."""
        started = []
        for served_model in self._served_models:
            # Read before anything is measured: a value from before another one's firing then fires nothing.
            states = await triggers.states(conn, served_model)
            runs = (await triggers.situation(conn, served_model)).runs
            readings = await self._measure(conn, served_model)
            for rule, reading in readings.items():
                await triggers.note(conn, rule, served_model, reading.value, self._clock.now())
                state = states.get(rule, RuleState())
                run_id = await self._apply(conn, served_model, rule, reading, state, runs)
                if run_id is not None:
                    started.append(run_id)
        return started

    async def _measure(self, conn: Connection, served_model: str) -> dict[Rule, Reading]:
        settings, now = self._settings, self._clock.now()
        window = await triggers.answers(
            conn, served_model, now - dt.timedelta(seconds=settings.window_s), now
        )
        pairs = await triggers.fresh_pairs(conn, served_model)
        fresh = self._fresh(pairs.by_client, window, settings.min_fresh_pairs)
        found: dict[Rule, Reading] = {}

        def add(rule: Rule, value: float | None, threshold: float) -> None:
            found[rule] = Reading(
                value=value,
                threshold=threshold,
                fresh=fresh,
                needed=settings.min_fresh_pairs,
                at=now,
                newest=pairs.newest,
            )

        if settings.new_pairs.enabled:
            count = settings.new_pairs.count
            add(Rule.NEW_PAIRS, self._fresh(pairs.by_client, window, count), count)
        if settings.unsafe_rate.enabled:
            enough = window.total >= settings.unsafe_rate.min_answers
            rate = window.unsafe / window.total if enough else None
            add(Rule.UNSAFE_RATE, rate, settings.unsafe_rate.budget)
        if settings.adapter_age.enabled:
            made = await triggers.adapter_since(conn, served_model)
            days = (now - made).total_seconds() / 86_400 if made else None
            add(Rule.ADAPTER_AGE, days, settings.adapter_age.days)
        if settings.drift.enabled:
            add(Rule.DRIFT, await self._drift(conn, served_model, window, now), settings.drift.psi)
        return found

    def _fresh(self, pairs: dict[Client, int], window: Answers, needed: int) -> int:
        share = self._settings.max_client_share
        return counted(pairs, needed, share, several_clients=window.several_clients)

    async def _drift(
        self, conn: Connection, served_model: str, window: Answers, now: dt.datetime
    ) -> float | None:
        settings = self._settings.drift
        if window.total < settings.min_answers:
            return None
        length = dt.timedelta(seconds=settings.reference_s)
        at, reference = self._references.get(served_model, (None, None))
        if at is None or reference is None or now - at > length / _REFERENCE_PARTS:
            end = now - dt.timedelta(seconds=self._settings.window_s)
            reference = await triggers.answers(conn, served_model, end - length, end)
            self._references[served_model] = (now, reference)
        if reference.total < settings.min_answers:
            return None
        return stability_index(window.by_kind, reference.by_kind)

    async def _apply(
        self,
        conn: Connection,
        served_model: str,
        rule: Rule,
        reading: Reading,
        state: RuleState,
        runs: int,
    ) -> UUID | None:
        obstacles = await self._obstacles(conn, served_model, reading, runs)
        act = decide(rule, reading.value, reading.threshold, self._settings.rearm, state, obstacles)
        self._say_waiting(served_model, rule, obstacles.reasons if act is Act.WAIT else ())
        run_id: UUID | None = None
        done = True
        if act is Act.REARM:
            await triggers.rearm(conn, rule, served_model, state.crossing)
            return None
        if act is Act.NOTIFY:
            evidence = await self._evidence(conn, served_model, reading)
            done = await triggers.notify(conn, rule, served_model, state.crossing, evidence)
        elif act is Act.FIRE:
            evidence = await self._evidence(conn, served_model, reading)
            run_id = await triggers.fire(
                conn, rule, served_model, state.crossing, evidence, self._config(rule)
            )
            done = run_id is not None
        elif act is Act.FOLLOW_UP:
            run_id = await triggers.follow_up(conn, rule, served_model, state.crossing, self._config(rule))
            done = run_id is not None
        else:
            return None
        if done:
            _log.warning(
                "A trigger fired.",
                action="trigger_fired",
                trigger=rule.value,
                served_model=served_model,
                measured=reading.value,
                threshold=reading.threshold,
                run_id=str(run_id) if run_id else None,
            )
        return run_id

    async def _obstacles(self, conn: Connection, served_model: str, reading: Reading, runs: int) -> Obstacles:
        # Asked for each rule anew: the rule before may have started a run.
        situation = await triggers.situation(conn, served_model)
        cooldown = dt.timedelta(seconds=self._settings.cooldown_s)
        return Obstacles(
            frozen=situation.frozen,
            # A run that came and went since the measuring took pairs that were still counted.
            busy=situation.busy or situation.runs != runs,
            cooling=situation.last_end is not None and self._clock.now() - situation.last_end < cooldown,
            few_pairs=reading.fresh < reading.needed,
        )

    def _say_waiting(self, served_model: str, rule: Rule, reasons: tuple[str, ...]) -> None:
        """One line when what holds a crossing back changes, not one at every look."""
        if reasons and self._waiting.get((served_model, rule)) != reasons:
            _log.info(
                "A trigger was crossed; its run waits.",
                action="trigger_waits",
                trigger=rule.value,
                served_model=served_model,
                reasons=list(reasons),
            )
        self._waiting[served_model, rule] = reasons

    async def _evidence(self, conn: Connection, served_model: str, reading: Reading) -> dict[str, Any]:
        """What was measured, over which answers (recorded after one moment, the other included) and which pairs."""
        window = dt.timedelta(seconds=self._settings.window_s)
        return {
            "value": reading.value,
            "threshold": reading.threshold,
            "fresh_pairs": reading.fresh,
            "window_from": reading.at - window,
            "window_until": reading.at,
            **await triggers.name_pairs(conn, served_model, reading.newest),
        }

    def _config(self, rule: Rule) -> dict[str, Any]:
        return {"recipe": self._recipe, "started_by": f"trigger {rule.value}"}
