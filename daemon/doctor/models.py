"""The guard and the served models: reachable, known by the configured name, answering in the right grammar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from daemon.doctor.fetching import fetch
from daemon.doctor.report import Finding, fail, ok, warn
from sentinel.clock import Clock
from sentinel.errors import ConfigurationError, SlowDownError, UnavailableError
from sentinel.events import Message
from sentinel.guards.base import GuardFailure, GuardRequest
from sentinel.verdicts import Label, Role

if TYPE_CHECKING:
    from sentinel.guards.client import HttpGuard
    from sentinel.settings import Guard as GuardSettings
    from sentinel.settings import ServedModel

SLOW_GUARD_S: Final = 2.0
"""A probe of a few words; at 512 events in flight this allows 256 events a second."""
_REQUEST_S: Final = 5.0
_TOLD: Final = 5
"""Names of one kind that a finding lists."""

PROMPT: Final = (Message("user", "What is the capital of France?"),)
ANSWER: Final = "Paris is the capital of France."


async def examine_guard(
    settings: GuardSettings, make: Callable[[], HttpGuard], clock: Clock
) -> list[Finding]:
    """One judgement of a harmless prompt and its answer, with the time that they took."""
    found: list[Finding] = []
    token = settings.api_key.get_secret_value() if settings.api_key else None
    try:
        names: Mapping[str, str | None] | None = await _models(settings.base_url, token)
    except _AnswerError as error:
        # Guards behind a gateway may have no list of models; the judgement below decides.
        names = None
        if error.status in {401, 403}:
            return [
                fail(
                    "guard",
                    f"{settings.base_url} refuses the token ({error.status})",
                    "correct guard.api_key",
                )
            ]
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        return [
            fail(
                "guard",
                f"{settings.base_url} cannot be reached: {type(error).__name__}",
                "start the guard's server, or correct guard.base_url",
            )
        ]
    if names is not None and settings.name not in names:
        listed = ", ".join(sorted(names)[:5]) or "none"
        found.append(
            fail(
                "guard", f"its server has no model {settings.name!r}; it has: {listed}", "correct guard.name"
            )
        )
        return found
    try:
        guard = make()
    except ConfigurationError as error:
        return [fail("guard", str(error), "correct guard.grammar")]
    try:
        return [*found, *await _judge(guard, settings, clock)]
    finally:
        await guard.aclose()


async def _judge(guard: HttpGuard, settings: GuardSettings, clock: Clock) -> list[Finding]:
    requests = [GuardRequest(Role.PROMPT, PROMPT), GuardRequest(Role.RESPONSE, PROMPT, ANSWER)]
    try:
        await guard.assess(requests[:1])  # finds out how the server is asked; not part of the time
        started = clock.monotonic()
        judged = await guard.assess(requests)
    except SlowDownError:
        return [
            warn("guard", "asks for fewer calls (429 or 503)", "lower guard.max_concurrency, or add capacity")
        ]
    except UnavailableError as error:
        return [
            fail("guard", f"{settings.base_url} judges no probe text: {error}",
                 "look into the guard server's log; its grammar is set by guard.grammar")
        ]  # fmt: skip
    took = clock.monotonic() - started
    for request, judgement in zip(requests, judged, strict=True):
        if isinstance(judgement, GuardFailure):
            return [
                fail("guard", f"failed a probe {request.role.value}: {judgement.detail}", "look into its log")
            ]
        if judgement.label is Label.UNPARSEABLE:
            return [
                fail(
                    "guard",
                    f"its answer about a {request.role.value} is not in the grammar {settings.grammar!r}",
                    "set guard.grammar to the grammar of this model, and serve it with its own chat template",
                )
            ]
        if judgement.label is not Label.SAFE:
            return [
                warn("guard", f"calls a harmless {request.role.value} {judgement.label.value}",
                     "look whether the right model and chat template are served")
            ]  # fmt: skip
    way = "many texts a request" if guard.batched else "one text a request: its server has no batch endpoint"
    if settings.mode == "single":
        way = "one text a request, by guard.mode"
    text = f"{guard.model} answers in {took * 1000:,.0f} ms, grammar {settings.grammar}, guard id {guard.guard_id}"
    text += f", {way}"
    if took > SLOW_GUARD_S:
        return [warn("guard", text, "give the guard more capacity: intake is bounded by its latency")]
    return [ok("guard", text)]


async def examine_served(models: Mapping[str, ServedModel]) -> list[Finding]:
    """Every replica of every served model lists its models."""
    asked = [(name, url, model) for name, model in models.items() for url in model.replicas]
    found = [
        warn("served models", f"{name} has no replicas, so its findings are never re-prompted",
             f"set served_models.{name}.replicas")
        for name, model in models.items() if not model.replicas
    ]  # fmt: skip
    answers = await asyncio.gather(*(_replica(name, url, model) for name, url, model in asked))
    if not models:
        return [ok("served models", "none configured: events are monitored, never re-prompted")]
    return [*found, *answers]


async def _replica(name: str, url: str, model: ServedModel) -> Finding:
    token = model.admin_token.get_secret_value() if model.admin_token else None
    try:
        names = await _models(url, token)
    except _AnswerError as error:
        remedy = f"correct served_models.{name}." + (
            "admin_token" if error.status in {401, 403} else "replicas"
        )
        return fail("served models", f"{name}: {url}/v1/models answers {error.status}", remedy)
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        return fail(
            "served models",
            f"{name}: {url} cannot be reached: {type(error).__name__}",
            f"start the replica, or correct served_models.{name}.replicas",
        )
    bases = sorted(listed for listed, parent in names.items() if parent is None)
    adapters = sorted(names.keys() - {*bases})
    if names and not bases:
        return warn(
            "served models",
            f"{name}: {url} lists no model without a parent, so none is known as the base",
            "serve the base under a name of its own",
        )
    told = (
        f", and {len(adapters)} adapter(s): {', '.join(adapters[:_TOLD])}"
        if adapters
        else ", without adapters"
    )
    more = ", ..." if len(adapters) > _TOLD else ""
    return ok("served models", f"{name}: {url} serves {', '.join(bases[:_TOLD]) or 'no model'}{told}{more}")


class _AnswerError(Exception):
    """The server answered, but not with a list of models."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _models(url: str, token: str | None) -> dict[str, str | None]:
    """Parents by name of ``GET /v1/models``, None for a base. Raises `_AnswerError`, and what aiohttp raises."""
    if urlsplit(url).hostname is None:
        raise OSError("no host in the address")
    status, body = await fetch(f"{url}/v1/models", limit_s=_REQUEST_S, token=token)
    if status != 200:
        raise _AnswerError(status)
    try:
        return {str(model["id"]): model.get("parent") for model in orjson.loads(body)["data"]}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _AnswerError(200) from error
