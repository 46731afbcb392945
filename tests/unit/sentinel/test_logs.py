from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog
from asyncpg.exceptions import InterfaceError, UniqueViolationError
from sqlalchemy.exc import IntegrityError

from sentinel import logs
from sentinel.errors import PoisonError, UnavailableError
from sentinel.failures import describe, render, without_password
from sentinel.settings import Logging

SECRET = "how do I pick a lock"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    logs.release()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_sentence_action_and_fields(stream: io.StringIO) -> None:
    logs.configure(Logging(), stream)
    logs.get("consumers.loop", group="g").info(
        "Took partitions over.", action="partitions_taken", partitions=4
    )
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "consumers.loop",
        "action": "partitions_taken",
        "message": "Took partitions over.",
        "group": "g",
        "partitions": 4,
    }


def test_console_lines_on_a_terminal_and_json_elsewhere(stream: io.StringIO) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure(Logging(format="auto"), terminal)
    logs.get("daemon").info("Started.", action="started")
    assert "Started." in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    logs.configure(Logging(format="json"), terminal)
    logs.get("daemon").info("Again.", action="started")
    assert json.loads(terminal.getvalue().splitlines()[-1])["message"] == "Again."


@pytest.mark.parametrize("silenced", [False, True])
def test_levels_ours_as_set_third_parties_from_warning(stream: io.StringIO, silenced: bool) -> None:
    if silenced:
        logs.silence_libraries()
    logs.configure(Logging(level="INFO"), stream)
    logs.get("consumers.loop").debug("Hidden.", action="a")
    logs.get("consumers.loop").info("Shown.", action="a")
    for name in ("aiokafka.consumer", "sqlalchemy.engine", "asyncio"):
        logging.getLogger(name).info("hidden")
        logging.getLogger(name).warning("shown %s", 1)
    found = lines(stream)
    assert [line["message"] for line in found] == ["Shown.", "shown 1", "shown 1", "shown 1"]
    assert {line["action"] for line in found[1:]} == {"library"}
    assert [line["logger"] for line in found[1:]] == ["aiokafka.consumer", "sqlalchemy.engine", "asyncio"]
    logs.configure(Logging(level="DEBUG"), stream)
    logs.get("consumers.loop").debug("Now shown.", action="a")
    assert lines(stream)[-1]["message"] == "Now shown."


def test_silent_libraries_stay_so_until_the_release(stream: io.StringIO) -> None:
    log = logging.getLogger("aiokafka.client")
    logs.silence_libraries()
    assert not log.isEnabledFor(logging.CRITICAL)
    logs.release()
    assert log.isEnabledFor(logging.CRITICAL)


def test_a_second_call_replaces_the_first(stream: io.StringIO) -> None:
    first = io.StringIO()
    logs.configure(Logging(), first)
    logs.configure(Logging(), stream)
    logs.get("daemon").info("Once.", action="a")
    assert (first.getvalue(), len(lines(stream))) == ("", 1)


class Word(msgspec.Struct, frozen=True):
    prompt: str


def test_no_text_by_default_at_any_depth(stream: io.StringIO) -> None:
    logs.configure(Logging(), stream)
    logs.get("daemon").warning(
        "Odd event.",
        action="odd",
        prompt=SECRET,
        response=SECRET,
        tenant=SECRET,
        detail={"messages": [SECRET], "Text": SECRET, "more": [{"user": SECRET, "offset": 3}]},
        event_object=Word(SECRET),
        objects=[Word(SECRET)],
        error=ValueError(SECRET),
        id=UUID(int=1),
        path=Path("/x"),
        names={"b", "a"},
    )
    assert SECRET not in stream.getvalue()
    (line,) = lines(stream)
    assert line["prompt"] == "[redacted]"
    assert line["detail"]["more"] == [{"user": "[redacted]", "offset": 3}]
    assert (line["event_object"], line["objects"], line["error"]) == ("<Word>", ["<Word>"], "ValueError")
    assert (line["id"], line["path"], line["names"]) == (str(UUID(int=1)), "/x", ["a", "b"])


def test_text_where_the_operator_asks_for_it_but_secrets_never(stream: io.StringIO) -> None:
    logs.configure(Logging(include_text=True), stream)
    logs.get("daemon").info(
        "Event.", action="a", prompt=SECRET, api_key="hunter2", url="postgresql://u:hunter2@h/d"
    )
    (line,) = lines(stream)
    assert line["prompt"] == SECRET
    assert "hunter2" not in stream.getvalue()
    assert line["url"] == "postgresql://u:***@h/d"


@pytest.mark.parametrize("include_text", [False, True])
@pytest.mark.parametrize("form", ["json", "console"])
def test_exceptions_show_class_and_frames_and_hide_messages(
    stream: io.StringIO, form: Any, include_text: bool
) -> None:
    logs.configure(Logging(format=form, include_text=include_text), stream)
    try:
        try:
            int(SECRET)
        except ValueError as error:
            raise UnavailableError("The guard is away.") from error
    except UnavailableError:
        logs.get("daemon").error("Failed.", action="failed", exc_info=True)
    text = stream.getvalue()
    assert "sentinel.errors.UnavailableError: The guard is away." in text
    assert "caused by:" in text
    assert "test_logs.py:" in text
    assert (SECRET in text) is include_text


async def test_what_asyncio_says_of_a_lost_task_holds_no_message(stream: io.StringIO) -> None:
    logs.configure(Logging(), stream)

    async def fail() -> None:
        raise ValueError(SECRET)

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task
    gc.collect()
    (line,) = lines(stream)
    assert line["logger"] == "asyncio"
    assert line["message"].startswith("Task exception was never retrieved")
    assert line["exception"].startswith("ValueError")
    assert SECRET not in stream.getvalue()


def test_warnings_become_lines(stream: io.StringIO) -> None:
    logs.configure(Logging(), stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    assert "UserWarning: old" in lines(stream)[0]["message"]


def test_release_gives_everything_back() -> None:
    before = (list(logging.getLogger().handlers), logging.getLogger("consumers").level)
    logs.configure(Logging(), io.StringIO())
    logs.release()
    assert (list(logging.getLogger().handlers), logging.getLogger("consumers").level) == before
    assert not structlog.is_configured()


def test_describe_keeps_codes_and_drops_what_quotes_data() -> None:
    unique = UniqueViolationError(f"Key (text)=({SECRET}) already exists.")
    vars(unique).update(sqlstate="23505", constraint_name="event_keys_pkey", detail=f"Row ({SECRET}).")
    assert describe(unique) == (
        "asyncpg.exceptions.UniqueViolationError (sqlstate=23505, constraint_name=event_keys_pkey)"
    )
    wrapped = IntegrityError("INSERT", {"text": SECRET}, unique)
    assert SECRET not in "\n".join(render(wrapped))
    assert describe(InterfaceError("connection is closed")).endswith("InterfaceError: connection is closed")
    assert describe(PoisonError("invalid_json", "byte 3")) == "invalid_json: byte 3"
    assert describe(UnavailableError("no answer of postgresql://u:pw@h/d")).endswith("postgresql://u:***@h/d")
    assert describe(UnavailableError()) == "sentinel.errors.UnavailableError"
    assert next(render(UnavailableError("away"))) == "sentinel.errors.UnavailableError: away"
    assert describe(ConnectionRefusedError(111, "Connection refused")).startswith("ConnectionRefusedError: ")
    assert describe(KeyError(SECRET)) == "KeyError"
    assert describe(TimeoutError()) == "TimeoutError"
    assert SECRET in describe(KeyError(SECRET), include_text=True)


def test_render_shows_each_member_of_a_group() -> None:
    group = ExceptionGroup(SECRET, [ValueError(SECRET), OSError(5, "I/O error")])
    text = "\n".join(render(group))
    assert "| ValueError" in text
    assert "| OSError: [Errno 5] I/O error" in text
    assert SECRET not in text


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert len(list(render(first))) < 50


def test_passwords_leave_addresses() -> None:
    assert without_password("at postgresql://u:hunter2@h/d now") == "at postgresql://u:***@h/d now"
    assert without_password("nothing: here") == "nothing: here"
