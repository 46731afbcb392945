"""Running the checks: all at once, each with its own time limit, none able to hide another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from daemon.doctor.report import Finding, fail
from sentinel.failures import describe

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of part. ``examine`` may take ``limit_s`` seconds and raises only by mistake."""

    part: str
    examine: Callable[[], Awaitable[Sequence[Finding]]]
    limit_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Question(Generic[Subject]):
    """One question to a server that is there, asked over a connection shared with the other questions."""

    part: str
    ask: Callable[[Subject], Awaitable[Sequence[Finding]]]
    limit_s: float = 5.0


async def examine(checks: Sequence[Check]) -> list[Finding]:
    """Run all checks at the same time; the result is in the order of ``checks``. Never raises."""
    results = await asyncio.gather(
        *(_bounded(check.part, check.examine(), check.limit_s) for check in checks)
    )
    return [finding for found in results for finding in found]


async def ask(subject: Subject, questions: Sequence[Question[Subject]]) -> list[Finding]:
    """Ask one after the other; a question that fails is a finding, and the next one is asked. Never raises."""
    found: list[Finding] = []
    for question in questions:
        found += await _bounded(question.part, question.ask(subject), question.limit_s)
    return found


async def _bounded(part: str, answer: Awaitable[Sequence[Finding]], limit_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(limit_s):
            return list(await answer)
    except TimeoutError:
        return [
            fail(
                part,
                f"no answer within {limit_s:g} s",
                "look whether the server is overloaded or a firewall drops packets",
            )
        ]
    except Exception as error:  # noqa: BLE001 a broken check is a finding; the others must still be heard
        return [
            fail(
                part,
                f"could not be examined: {describe(error)}",
                "run `sentinel doctor --debug` for the traceback",
            )
        ]
