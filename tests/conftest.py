"""Fixtures that every test may use; servers are started once per run, on first use.

Servers:      postgres_server, postgres14, database_url, empty_database_url, private_postgres,
              kafka, secure_kafka, kafka_factory, embedded_broker, broker (embedded | kafka)
Environment:  SENTINEL_TEST_DATABASE_URL   use this PostgreSQL (a superuser's URL)
              SENTINEL_TEST_KAFKA          use this broker (bootstrap servers, no security) where any will do
              KAFKA_HOME                   start Apache Kafka from here
              SENTINEL_TEST_REQUIRE_KAFKA  1: a test that needs Kafka fails where there is none
              SENTINEL_TEST_REQUIRE_POSTGRES14  1: the same for tests on PostgreSQL 14 (scripts/setup-postgres14)
Helpers:      logs_quiet, free_port, wait_until (tests.support.waiting has the same as a function)
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sentinel.embedded.broker import EmbeddedBroker
from sentinel.embedded.postgres import EmbeddedPostgres
from tests.support.brokers import ApacheKafka, Broker, Embedded
from tests.support.kafka_server import KafkaServer, await_coordinator, why_no_kafka
from tests.support.kafka_server import free_port as _free_port
from tests.support.postgres import POSTGRES14, Databases, apply_migrations, require_postgres14
from tests.support.security import Security, make_security
from tests.support.waiting import WaitUntil
from tests.support.waiting import wait_until as _wait_until

_UNIT = Path(__file__).parent / "unit"
_KAFKA_FIXTURES = {"kafka", "secure_kafka", "kafka_factory"}


# -- Kafka or not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a Kafka fixture needs Kafka, marked or not."""
    for item in items:
        if _KAFKA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kafka") is None or os.environ.get("SENTINEL_TEST_KAFKA"):
        return
    _need_a_kafka_started_here()


def _need_a_kafka_started_here() -> None:
    """Skip where no broker can be started, or fail where a skipped test would be a test that was promised."""
    reason = why_no_kafka()
    if reason is None:
        return
    if os.environ.get("SENTINEL_TEST_REQUIRE_KAFKA") == "1":
        pytest.fail(f"a real Kafka is required: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _unit_tests_open_no_connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if _UNIT not in request.path.parents:
        return

    def refuse(*arguments: object) -> None:
        raise AssertionError(
            f"a unit test opens a connection to {arguments[1:]}: move it to tests/integration"
        )

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)


# -- folders


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that other accounts may pass: under root, PostgreSQL runs as one of them."""
    folder = Path(tempfile.mkdtemp(prefix="sentinel-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# -- PostgreSQL


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[Databases]:
    """The run's server with its migrated template."""
    given = os.environ.get("SENTINEL_TEST_DATABASE_URL")
    if given:
        databases = Databases(given)
        databases.prepare()
        yield databases
        databases.close()
        return
    with EmbeddedPostgres(
        server_folder / "postgres", durable=False, settings={"max_connections": "200"}
    ) as server:
        databases = Databases(server.url)
        databases.prepare()
        yield databases


@pytest.fixture(scope="session")
def postgres14(server_folder: Path) -> Iterator[Databases]:
    """A server of the oldest version that the product promises, with its migrated template."""
    require_postgres14()
    with EmbeddedPostgres(server_folder / "postgres14", durable=False, programs=POSTGRES14) as server:
        databases = Databases(server.url)
        databases.prepare()
        yield databases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked ``postgres14`` runs on that version and on the run's own server."""
    if metafunc.definition.get_closest_marker("postgres14") and "databases" in metafunc.fixturenames:
        metafunc.parametrize("databases", ["postgres_server", "postgres14"], indirect=True, ids=["own", "14"])


@pytest.fixture
def databases(request: pytest.FixtureRequest) -> Databases:
    """The server of `database_url`: the run's own, where the test names no other."""
    found = request.getfixturevalue(getattr(request, "param", "postgres_server"))
    assert isinstance(found, Databases)
    return found


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """A migrated database of the test's own, as ``postgresql+asyncpg://…``."""
    async with databases.database() as url:
        yield url


@pytest.fixture
async def empty_database_url(databases: Databases) -> AsyncIterator[str]:
    """A database without any table."""
    async with databases.database(migrated=False) as url:
        yield url


@pytest.fixture
def private_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own to kill, pause and restart; its database (``.url``) is migrated.

    Its calls block: from a coroutine use ``asyncio.to_thread``.
    """
    folder = Path(tempfile.mkdtemp(prefix="sentinel-test-pg-"))
    folder.chmod(0o755)
    try:
        # A killed server must keep what it said it committed; without fsync that costs next to nothing.
        durable = {"synchronous_commit": "on"}
        with EmbeddedPostgres(folder / "postgres", durable=False, settings=durable) as server:
            apply_migrations(server.url)
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- Kafka


@pytest.fixture(scope="session")
def security(server_folder: Path) -> Security:
    """Certificates and the account of the secured listeners."""
    return make_security(server_folder / "security")


@pytest.fixture(scope="session")
def kafka(server_folder: Path) -> Iterator[ApacheKafka]:
    """The run's Apache Kafka, without security. Shared: never stop it, make a topic of your own."""
    given = os.environ.get("SENTINEL_TEST_KAFKA")
    if given:
        await_coordinator(given, 30)
        broker = ApacheKafka(given)
        yield broker
        broker.close()
        return
    server = KafkaServer(server_folder / "kafka")
    server.start()
    broker = ApacheKafka(server.bootstrap)
    yield broker
    broker.close()
    server.stop()


@pytest.fixture(autouse=True)
def refused_connections(request: pytest.FixtureRequest) -> Iterator[None]:
    """The client leaves the sockets of a refused TLS connection to the garbage collector: here, not in another test."""
    if "secure_kafka" not in request.fixturenames:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(scope="session")
def secure_kafka(server_folder: Path, security: Security) -> Iterator[KafkaServer]:
    """One broker with the listeners PLAINTEXT, SASL_PLAINTEXT, SASL_SSL and SSL (client certificate).

    Always started here, also where ``SENTINEL_TEST_KAFKA`` names a broker.
    """
    _need_a_kafka_started_here()
    server = KafkaServer(server_folder / "secure-kafka", security=security)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def kafka_factory() -> Iterator[Callable[..., KafkaServer]]:
    """Brokers of the test's own, to stop, kill, pause and restart: ``kafka_factory(settings={…})``.

    Always started here, also where ``SENTINEL_TEST_KAFKA`` names a broker.
    """
    _need_a_kafka_started_here()
    folder = Path(tempfile.mkdtemp(prefix="sentinel-test-kafka-"))
    servers: list[KafkaServer] = []

    def make(*, security: Security | None = None, settings: dict[str, str] | None = None) -> KafkaServer:
        server = KafkaServer(folder / str(len(servers)), security=security, settings=settings)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def embedded_broker() -> Iterator[Embedded]:
    """The embedded broker, in this process and empty."""
    with EmbeddedBroker() as server:
        broker = Embedded(server)
        yield broker
        broker.close()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Both brokers behind one face; a case marked ``needs("rebalance")`` runs where that can be had."""
    capabilities = (ApacheKafka if request.param == "kafka" else Embedded).capabilities
    for marker in request.node.iter_markers("needs"):
        for capability in marker.args:
            if not getattr(capabilities, capability):
                pytest.skip(f"the {request.param} broker lacks the capability {capability!r}")
    found = request.getfixturevalue("kafka" if request.param == "kafka" else "embedded_broker")
    assert isinstance(found, Broker)
    return found


# -- helpers


@pytest.fixture
def logs_quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that passed while something logged an error: swallowed is not handled."""
    yield
    loud = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not loud, [f"{record.name}: {record.getMessage()}" for record in loud]


@pytest.fixture
def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses at this moment."""
    return _free_port()


@pytest.fixture
def wait_until() -> WaitUntil:
    """Poll a plain or an async predicate until it gives something true."""
    return _wait_until
