"""What may be shown of an exception where nobody's text may appear: logs, health, dead letters' details."""

from __future__ import annotations

import asyncio
import re
import ssl
import traceback
from collections.abc import Iterator
from typing import Final

from sentinel.errors import SentinelError

_URL_PASSWORD: Final = re.compile(r"(\b[\w+.-]+://[^\s:/@]*):[^\s@/]+@")
_QUIET: Final[tuple[type[BaseException], ...]] = (
    SentinelError,
    OSError,
    ssl.SSLError,
    asyncio.TimeoutError,
    asyncio.CancelledError,
)
_QUIET_MODULES: Final = ("aiokafka.", "aiohttp.", "asyncpg.exceptions._base")
_CODES: Final = (
    "sqlstate",
    "constraint_name",
    "table_name",
    "column_name",
    "status",
    "status_code",
    "errno",
    "reason",
)


def without_password(text: str) -> str:
    """Replace the password inside any address of the text."""
    return _URL_PASSWORD.sub(r"\1:***@", text) if "://" in text else text


def describe(error: BaseException, *, include_text: bool = False) -> str:
    """What happened, in one line: our own message, else class, codes, and the message where that holds no data.

    PostgreSQL quotes the failing row in DETAIL, and a parser quotes its input: such messages are left out.
    """
    if isinstance(error, SentinelError) and str(error):
        return without_password(str(error))
    return _with_class(error, include_text=include_text)


def _with_class(error: BaseException, *, include_text: bool) -> str:
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    quiet = isinstance(error, _QUIET) or (
        type(error).__module__.startswith(_QUIET_MODULES) and getattr(error, "sqlstate", None) is None
    )
    if include_text or quiet:
        return without_password(f"{kind}: {error}") if str(error) else kind
    codes = {name: getattr(error, name, None) for name in _CODES}
    shown = ", ".join(
        f"{name}={code}" for name, code in codes.items() if isinstance(code, (str, int)) and code
    )
    return f"{kind} ({shown})" if shown else kind


def render(error: BaseException, *, include_text: bool = False, depth: int = 0) -> Iterator[str]:
    """Lines of a traceback: frames without source text, innermost last, then the cause before it."""
    yield _with_class(error, include_text=include_text)
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} {frame.name}"
    if depth >= 10:
        return
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from (f"  | {line}" for line in render(member, include_text=include_text, depth=depth + 1))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield "caused by:"
        yield from render(cause, include_text=include_text, depth=depth + 1)
