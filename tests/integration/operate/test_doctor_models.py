"""The doctor's questions to guard and served models."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from daemon.doctor import models
from daemon.doctor.report import Finding, Level
from sentinel.clock import SystemClock
from sentinel.embedded.scripted_guard import MODEL, ScriptedGuard
from sentinel.embedded.scripted_model import MODEL as SERVED_MODEL
from sentinel.embedded.scripted_model import ScriptedModel
from sentinel.guards.configured import configured_guard
from sentinel.settings import Guard, ServedModel, Settings


async def examine(url: str, **changed: Any) -> Finding:
    values: dict[str, Any] = {"base_url": url, "name": MODEL, "attempts": 1, "timeout_s": 30.0}
    settings = Guard(**(values | changed))
    clock = SystemClock()
    (found,) = await models.examine_guard(
        settings, lambda: configured_guard(Settings(guard=settings), clock), clock
    )
    assert found.part == "guard"
    assert found.level is Level.OK or found.remedy
    return found


async def test_a_guard_in_order_names_its_latency_and_id(guard: ScriptedGuard) -> None:
    found = await examine(guard.url)
    assert found.level is Level.OK, found
    assert MODEL in found.message
    assert " ms, grammar qwen3guard, guard id " in found.message


async def test_how_texts_are_asked_is_said(guard: ScriptedGuard) -> None:
    assert (await examine(guard.url)).message.endswith(", many texts a request")
    assert (await examine(guard.url, mode="single")).message.endswith(", one text a request, by guard.mode")
    guard.set_faults(batch_missing=True)
    found = await examine(guard.url)
    assert found.level is Level.OK
    assert found.message.endswith("one text a request: its server has no batch endpoint")


async def test_nothing_listens(free_port: int) -> None:
    found = await examine(f"http://127.0.0.1:{free_port}")
    assert found.level is Level.FAIL
    assert "guard.base_url" in found.remedy


async def test_another_model_is_served(guard: ScriptedGuard) -> None:
    found = await examine(guard.url, name="Qwen/Other")
    assert found.level is Level.FAIL
    assert MODEL in found.message
    assert found.remedy == "correct guard.name"


async def test_an_unknown_grammar(guard: ScriptedGuard) -> None:
    found = await examine(guard.url, grammar="absent")
    assert found.level is Level.FAIL
    assert found.remedy == "correct guard.grammar"


async def test_a_failing_guard(guard: ScriptedGuard) -> None:
    listed = models._models

    async def listing(url: str, token: str | None) -> dict[str, str | None]:
        """The list is asked for before the faults begin, as a server's that breaks only under load."""
        guard.clear_faults()
        names = await listed(url, token)
        guard.set_faults(error_rate=1.0)
        return names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_models", listing)
        found = await examine(guard.url)
    assert found.level is Level.FAIL
    assert "no probe text" in found.message


async def test_a_server_that_is_no_guard() -> None:
    async with ScriptedModel(obeys="be safe") as server:
        found = await examine(server.url, name=SERVED_MODEL)
    assert found.level is Level.FAIL
    assert "guard.grammar" in found.remedy


async def test_a_slow_guard(guard: ScriptedGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SLOW_GUARD_S", 0.05)
    guard.set_faults(latency_low=0.1, latency_high=0.1)
    found = await examine(guard.url)
    assert found.level is Level.WARN
    assert "capacity" in found.remedy


async def test_a_guard_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_REQUEST_S", 0.3)
        found = await examine(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found.level is Level.FAIL
    assert "TimeoutError" in found.message


async def test_replicas_are_asked_one_by_one(free_port: int) -> None:
    async with ScriptedModel(obeys="be safe") as server:
        away = f"http://127.0.0.1:{free_port}"
        found = await models.examine_served(
            {
                "assistant": ServedModel(public_name="a", base="b", replicas=(server.url, away)),
                "lonely": ServedModel(public_name="l", base="b"),
            }
        )
    by_level = {finding.level: finding for finding in found}
    assert len(found) == 3
    assert away in by_level[Level.FAIL].message
    assert "served_models.assistant.replicas" in by_level[Level.FAIL].remedy
    assert "lonely" in by_level[Level.WARN].message
    assert server.url in by_level[Level.OK].message


async def test_no_served_models_is_no_problem() -> None:
    (found,) = await models.examine_served({})
    assert found.level is Level.OK
