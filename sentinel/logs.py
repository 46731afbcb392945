"""Log lines: one fixed sentence, an ``action`` to count by, and fields. Third parties go the same way.

    log = logs.get("consumers.loop")
    log.info("Took partitions over.", action="partitions_taken", partitions=4)

Configured once, by the composition root. By default no line carries prompt, response, user or tenant text:
known fields are replaced, and of an exception only what `sentinel.failures` allows is shown.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO, cast

import orjson
import structlog

from sentinel.failures import describe, render, without_password

if TYPE_CHECKING:
    from sentinel.settings.service import Logging

OWN_LOGGERS: Final = ("sentinel", "consumers", "producers", "daemon", "trainer", "migrations")
"""Loggers that follow ``logging.level``; all others start at WARNING."""
_LOUD_LIBRARIES: Final = ("aiokafka", "kafka", "sqlalchemy", "asyncio", "aiohttp")

REDACTED: Final = "[redacted]"
# fmt: off
TEXT_KEYS: Final = frozenset({
    "answer", "arguments", "attrs", "body", "chosen", "completion", "content", "conversation", "data",
    "headers", "input", "key", "last_user_text", "messages", "output", "payload", "prompt", "raw", "record",
    "rejected", "response", "response_extra", "tenant", "text", "texts", "user", "user_id", "user_ref",
    "value",
})
"""Fields that hold what people or models wrote, or who they are."""
SECRET_KEYS: Final = frozenset({
    "admin_token", "api_key", "authorization", "database_url", "dsn", "key_password", "password", "secret",
    "token",
})
# fmt: on
"""Fields that are never logged, whatever the settings say."""

_EXCEPTION_REPR: Final = re.compile(r" exception=.*", re.DOTALL)

Event = MutableMapping[str, Any]


class Log(Protocol):
    """What `get` returns: the sentence is fixed, all that varies is a field. May block on stderr."""

    def debug(self, sentence: str, /, *, action: str, **fields: Any) -> None:
        """For developers."""

    def info(self, sentence: str, /, *, action: str, **fields: Any) -> None:
        """Something happened as it should."""

    def warning(self, sentence: str, /, *, action: str, **fields: Any) -> None:
        """Something may need a person."""

    def error(self, sentence: str, /, *, action: str, **fields: Any) -> None:
        """Something failed. ``exc_info=True`` adds the exception at hand."""


def get(name: str, **fields: Any) -> Log:
    """Log of a module, by its dotted name; ``fields`` stand on each of its lines. Cheap, safe at import."""
    return cast("Log", structlog.stdlib.get_logger(name, **fields))


def configure(settings: Logging, stream: TextIO | None = None) -> None:
    """Send every line of this process to ``stream`` (stderr). A second call replaces the first."""
    out = sys.stderr if stream is None else stream
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    exceptions = _Exceptions(include_text=settings.include_text)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        exceptions,
        _Redactor(include_text=settings.include_text),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.level)),
        cache_logger_on_first_use=False,
    )
    finish: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if console:
        finish.append(structlog.dev.ConsoleRenderer(colors=out.isatty(), timestamp_key="time"))
    else:
        finish += [_ordered, structlog.processors.JSONRenderer(serializer=_dump)]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_mark_foreign, *shared],
            processors=finish,
        )
    )
    handler.set_name("sentinel")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "sentinel"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(settings.level)
    for name in _LOUD_LIBRARIES:
        # A service that a command silenced before, in one process, would never tell what its libraries warn of.
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(True)


def silence_libraries() -> None:
    """For commands that report what they find themselves: nothing of other libraries on the terminal."""
    for name in _LOUD_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def release() -> None:
    """Undo `configure`, for tests and for programs that go on after the service."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if h.get_name() == "sentinel"]:
        root.removeHandler(handler)
        handler.close()
    for name in (*OWN_LOGGERS, *_LOUD_LIBRARIES):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def _dump(value: Any, default: Any = str) -> str:
    del default  # structlog's own falls back to repr(), which shows the contents of our words
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(str(item) for item in value) if not isinstance(value, tuple) else list(value)
    if isinstance(value, BaseException):
        return type(value).__name__
    return f"<{type(value).__name__}>"


def _ordered(_: Any, __: str, event: Event) -> Event:
    """Put what people look for first, and call the sentence ``message`` as log stores do."""
    first = {
        "time": event.pop("time", None),
        "level": event.pop("level", None),
        "logger": event.pop("logger", None),
    }
    first["action"] = event.pop("action", None)
    first["message"] = event.pop("event", "")
    return {**first, **event}


def _mark_foreign(_: Any, __: str, event: Event) -> Event:
    """Give lines of other libraries their action, and cut what asyncio prints of an exception's message."""
    event["action"] = "library"
    event["event"] = str(event["event"]).strip()
    if event["_record"].name == "asyncio":
        event["event"] = _EXCEPTION_REPR.sub("", event["event"])
    return event


class _Redactor:
    """Replaces known text fields, at any depth, and passwords inside addresses."""

    def __init__(self, *, include_text: bool) -> None:
        self._hidden = SECRET_KEYS if include_text else SECRET_KEYS | TEXT_KEYS

    def __call__(self, _: Any, __: str, event: Event) -> Event:
        for name, value in event.items():
            if name.startswith("_"):
                continue
            event[name] = REDACTED if name in self._hidden else self._clean(value)
        return event

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return without_password(value)
        if isinstance(value, Mapping):
            return {
                name: REDACTED if str(name).lower() in self._hidden else self._clean(item)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return _plain_or_text(value)


def _plain_or_text(value: Any) -> Any:
    """Ids, dates and paths as text; objects of unknown contents by class only."""
    if isinstance(value, BaseException):
        return describe(value)
    if type(value).__module__ in {"uuid", "datetime", "pathlib", "decimal", "enum"}:
        return str(value)
    return _plain(value)


class _Exceptions:
    """Renders ``exc_info`` as a list of causes; messages only where they hold no data."""

    def __init__(self, *, include_text: bool) -> None:
        self._include_text = include_text

    def __call__(self, _: Any, __: str, event: Event) -> Event:
        exc_info = event.pop("exc_info", None)
        error: BaseException | None = None
        if isinstance(exc_info, BaseException):
            error = exc_info
        elif isinstance(exc_info, tuple):
            error = exc_info[1]
        elif exc_info:
            error = sys.exc_info()[1]
        if error is not None:
            event["exception"] = "\n".join(render(error, include_text=self._include_text))
        return event


@contextmanager
def hushed(library: str) -> Iterator[None]:
    """A library's logger without what is below an error, for as long as the block lasts."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
