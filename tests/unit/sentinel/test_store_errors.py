"""What each database error means; the same on a real server is in tests/integration/store/test_engine.py."""

from __future__ import annotations

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sentinel.errors import ConfigurationError
from sentinel.settings import Database
from sentinel.store.engine import ErrorClass, classify, create_engine, driver_url, libpq_url


def _with_constraint(name: str | None) -> asyncpg.CheckViolationError:
    error = asyncpg.CheckViolationError("no partition of relation found for row")
    error.constraint_name = name
    return error


class _WithState(Exception):  # noqa: N818 -- stands for any driver's error
    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


CASES: list[tuple[BaseException, ErrorClass]] = [
    (asyncpg.SerializationError(), "retry"),
    (asyncpg.DeadlockDetectedError(), "retry"),
    (asyncpg.LockNotAvailableError(), "retry"),
    (_with_constraint(None), "missing_partition"),
    (_with_constraint("ck_findings_reprompt_state"), "poison"),
    (asyncpg.UniqueViolationError(), "poison"),
    (asyncpg.ForeignKeyViolationError(), "poison"),
    (asyncpg.NotNullViolationError(), "poison"),
    (asyncpg.CharacterNotInRepertoireError(), "poison"),
    (asyncpg.UntranslatableCharacterError(), "poison"),
    (asyncpg.NumericValueOutOfRangeError(), "poison"),
    (asyncpg.StringDataRightTruncationError(), "poison"),
    (asyncpg.DataError("invalid input for query argument"), "poison"),
    (asyncpg.ReadOnlySQLTransactionError(), "unavailable"),
    (asyncpg.TooManyConnectionsError(), "unavailable"),
    (asyncpg.AdminShutdownError(), "unavailable"),
    (asyncpg.CrashShutdownError(), "unavailable"),
    (asyncpg.CannotConnectNowError(), "unavailable"),
    (asyncpg.QueryCanceledError(), "unavailable"),
    (asyncpg.ConnectionDoesNotExistError(), "unavailable"),
    (asyncpg.ConnectionFailureError(), "unavailable"),
    (asyncpg.PostgresConnectionError(), "unavailable"),
    (asyncpg.DiskFullError(), "unavailable"),
    (asyncpg.InterfaceError("cannot perform operation: connection is closed"), "unavailable"),
    (ConnectionRefusedError(), "unavailable"),
    (ConnectionResetError(), "unavailable"),
    (OSError("no route to host"), "unavailable"),
    (TimeoutError(), "unavailable"),
    (EOFError(), "unavailable"),
    (PoolTimeoutError("QueuePool limit reached"), "unavailable"),
    (asyncpg.InterfaceError("cannot perform operation: another operation is in progress"), "fatal"),
    (asyncpg.UndefinedTableError(), "fatal"),
    (asyncpg.UndefinedColumnError(), "fatal"),
    (asyncpg.PostgresSyntaxError(), "fatal"),
    (asyncpg.InsufficientPrivilegeError(), "fatal"),
    (asyncpg.InvalidPasswordError(), "fatal"),
    (_WithState("XX000"), "fatal"),
    (ValueError("ours"), "fatal"),
]


@pytest.mark.parametrize(
    ("error", "meaning"), CASES, ids=lambda value: getattr(value, "sqlstate", None) or str(value)
)
def test_each_error_means_one_thing(error: BaseException, meaning: ErrorClass) -> None:
    assert classify(error) == meaning


@pytest.mark.parametrize(
    ("error", "meaning"), CASES, ids=lambda value: getattr(value, "sqlstate", None) or str(value)
)
def test_sqlalchemy_wrappers_are_opened(error: BaseException, meaning: ErrorClass) -> None:
    assert classify(DBAPIError("INSERT", None, error)) == meaning


def test_urls() -> None:
    assert driver_url("postgresql://u:p@h/d") == "postgresql+asyncpg://u:p@h/d"
    assert driver_url("postgresql+asyncpg:///d?host=/tmp") == "postgresql+asyncpg:///d?host=/tmp"
    with pytest.raises(ConfigurationError) as caught:
        driver_url("mysql://u:secret@h/d")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql", "postgres"])
def test_asyncpg_itself_knows_no_driver_in_an_address(scheme: str) -> None:
    rest = "u:postgresql%2Basyncpg:p%40@h:1/d?ssl=require"
    assert libpq_url(f"{scheme}://{rest}") == f"postgresql://{rest}"


async def test_an_engine_connects_when_first_used() -> None:
    engine = create_engine(Database(url=SecretStr("postgresql://u:p@192.0.2.1:1/d"), pool_size=3))
    assert engine.url.drivername == "postgresql+asyncpg"
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    assert (engine.pool.size(), engine.pool.checkedin(), engine.pool.checkedout()) == (3, 0, 0)
    await engine.dispose()
