"""One finding's second answers: ask the served model, let the guard judge, bounded; nothing is stored here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daemon.generators import Generators
from sentinel import ids
from sentinel.clock import Clock
from sentinel.errors import PoisonError, RetryableError, SlowDownError, UnavailableError
from sentinel.findings import ClaimedFinding, RepromptAttempt, RepromptResult, RepromptState
from sentinel.guards.base import Guard, GuardFailure, GuardRequest
from sentinel.llm import ModelAnswer
from sentinel.metrics import Metrics
from sentinel.pairs import PreferencePair
from sentinel.verdicts import Assessment, Label, Policy, Role, Verdict


class AwayError(RetryableError):
    """Model or guard cannot be asked now; the finding goes back."""

    def __init__(self, target: str, error: Exception, *, outage: bool) -> None:
        super().__init__(str(error))
        self.target = target
        self.outage = outage
        """The other side as a whole is away, so that the claim does not count."""
        self.retry_after = error.retry_after if isinstance(error, SlowDownError) else None


class SecondAnswers:
    """Asks for further answers and has them judged. One instance serves any number of findings at once."""

    def __init__(
        self,
        generators: Generators,
        guard: Guard,
        *,
        policy: Policy,
        instruction: str,
        instruction_version: str,
        attempts: int,
        attempt_s: float,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """``attempts`` are asked for at most, each within ``attempt_s`` seconds, the judgement included."""
        self._generators = generators
        self._guard = guard
        self._policy = policy
        self._instruction = instruction
        self._instruction_version = instruction_version
        self._attempts = attempts
        self._attempt_s = attempt_s
        self._metrics = metrics
        self._clock = clock

    async def result(
        self, finding: ClaimedFinding, renew: Callable[[ClaimedFinding], Awaitable[bool]]
    ) -> RepromptResult | None:
        """Ask and judge until an answer is called safe, at most the allowed number of times.

        ``renew`` is awaited before each attempt; where it says False the lease is lost and the result is None.

        Raises:
            AwayError: model or guard cannot be asked now.
        """
        attempts: list[RepromptAttempt] = []
        verdicts: list[Verdict] = []
        for number in range(1, self._attempts + 1):
            if not await renew(finding):
                return None
            try:
                async with asyncio.timeout(self._attempt_s):
                    attempt, verdict = await self._attempt(finding, number)
            except TimeoutError as error:
                reachable = await self._generators.reachable(finding.served_model)
                raise AwayError(finding.served_model, error, outage=not reachable) from error
            attempts.append(attempt)
            if verdict is not None:
                verdicts.append(verdict)
                if verdict.assessment.label is Label.SAFE and not attempt.error:
                    return RepromptResult(
                        state=RepromptState.SAFE,
                        attempts=tuple(attempts),
                        verdicts=tuple(verdicts),
                        pair=self._pair(finding, attempt),
                    )
            if attempt.error == "model_refused":
                break  # the same request would be refused again
        judged = any(attempt.unsafe is not None for attempt in attempts)
        return RepromptResult(
            state=RepromptState.UNSAFE if judged else RepromptState.FAILED,
            attempts=tuple(attempts),
            verdicts=tuple(verdicts),
        )

    async def _attempt(self, finding: ClaimedFinding, number: int) -> tuple[RepromptAttempt, Verdict | None]:
        started = self._clock.monotonic()
        outcome = "error"
        try:
            asked = await self._generators.ask(finding, finding.messages, self._instruction, number)
            outcome = "ok"
        except PoisonError as error:
            outcome = "refused"
            return self._unanswered(finding, number, error.reason), None
        except (SlowDownError, UnavailableError) as error:
            outcome = "throttled" if isinstance(error, SlowDownError) else "error"
            slow = isinstance(error, SlowDownError)
            outage = slow or not await self._generators.reachable(finding.served_model)
            raise AwayError(finding.served_model, error, outage=outage) from error
        finally:
            self._metrics.reprompt_request.observe(outcome, value=self._clock.monotonic() - started)
        return await self._score(finding, number, asked.generator, asked.answer)

    async def _score(
        self, finding: ClaimedFinding, number: int, generator: str, answer: ModelAnswer
    ) -> tuple[RepromptAttempt, Verdict | None]:
        def attempt(unsafe: bool | None, error: str = "") -> RepromptAttempt:
            return RepromptAttempt(
                attempt=number,
                generator=generator,
                instruction_version=self._instruction_version,
                response=answer.text,
                finish_reason=answer.finish_reason,
                unsafe=unsafe,
                error=error,
            )

        if not answer.text or answer.text.isspace():
            return attempt(None, "empty_response"), None  # no guard call can make an empty answer a good one
        scanned = f"{answer.text}\n\n{answer.reasoning}" if answer.reasoning else answer.text
        request = GuardRequest(Role.RESPONSE, finding.messages, scanned)
        try:
            (judgement,) = await self._guard.assess([request])
        except (SlowDownError, UnavailableError) as error:
            raise AwayError("guard", error, outage=True) from error
        if isinstance(judgement, GuardFailure):
            return attempt(None, judgement.reason), None
        verdict = self._verdict(finding, number, judgement)
        unsafe = self._policy.is_unsafe(judgement)
        if unsafe is None:
            return attempt(None, "unparseable"), verdict
        if answer.text == finding.response:
            # The guard changed its mind about the same words: there is nothing to prefer.
            return attempt(unsafe, "same_answer"), verdict
        return attempt(unsafe), verdict

    def _unanswered(self, finding: ClaimedFinding, number: int, error: str) -> RepromptAttempt:
        return RepromptAttempt(
            attempt=number,
            generator=finding.served_model,
            instruction_version=self._instruction_version,
            response="",
            finish_reason=None,
            unsafe=None,
            error=error,
        )

    def _verdict(self, finding: ClaimedFinding, number: int, assessment: Assessment) -> Verdict:
        return Verdict(
            event_id=finding.event_id,
            role=Role.RESPONSE,
            attempt=number,
            guard_id=self._guard.guard_id,
            score_run=0,
            assessment=assessment,
            guard_model=self._guard.model,
            template=self._guard.template,
            policy_version=self._policy.version,
        )

    def _pair(self, finding: ClaimedFinding, chosen: RepromptAttempt) -> PreferencePair:
        return PreferencePair(
            pair_id=ids.pair_id(finding.finding_id, chosen.attempt),
            finding_id=finding.finding_id,
            event_id=finding.event_id,
            attempt=chosen.attempt,
            served_model=finding.served_model,
            prompt=finding.messages,
            chosen=chosen.response,
            rejected=finding.response,
            chosen_generator=chosen.generator,
            rejected_generator=finding.rejected_generator,
            guard_id=self._guard.guard_id,
            policy_version=self._policy.version,
            created_at=self._clock.now(),
        )
