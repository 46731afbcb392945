"""Which checks a configuration asks for, each with its dependencies; nothing runs here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daemon.doctor import configuration
from daemon.doctor.examination import Check, Question
from daemon.doctor.report import Finding, fail

if TYPE_CHECKING:
    import asyncpg

    from sentinel.clock import Clock
    from sentinel.settings import Loaded, Settings

_MODULES = ("store", "progress", "brokers", "lag", "models", "load_probe", "running", "training")


def local_findings(loaded: Loaded) -> list[Finding]:
    """What this host alone can tell."""
    return [
        *configuration.check_settings(loaded),
        *configuration.check_secret_files(loaded),
        *configuration.check_disk(loaded.settings.runs_dir),
        *configuration.check_unit(),
    ]


def missing_parts() -> list[Finding]:
    """Checks that cannot even be imported, because a package is missing."""
    found = []
    for name in _MODULES:
        try:
            importlib.import_module(f"daemon.doctor.{name}")
        except ImportError as error:
            found.append(
                fail(
                    name,
                    f"cannot be examined without the package {error.name}",
                    "repair the installation first",
                )
            )
    return found


def server_checks(settings: Settings, clock: Clock) -> Sequence[Check]:
    """Database, Kafka, lag, guard, daemon, served models, adapters; needs a complete installation."""
    from daemon.doctor import brokers, lag, load_probe, models, running, store
    from sentinel.guards.configured import configured_guard
    from sentinel.store.engine import create_engine

    patient = settings.database.model_copy(
        update={"connect_timeout_s": min(5.0, settings.database.connect_timeout_s)}
    )
    # Fewer tries than the service makes: the operator waits.
    brisk_guard = settings.guard.model_copy(
        update={"attempts": 1, "timeout_s": min(10.0, settings.guard.timeout_s)}
    )
    brisk = settings.model_copy(update={"guard": brisk_guard})
    return (
        Check(
            "database",
            lambda: store.examine_database(create_engine(patient), database_questions(settings, clock)),
            limit_s=45.0,
        ),
        Check(
            "kafka",
            lambda: brokers.examine_kafka(settings.kafka, settings.consumer, settings.retention),
            30.0,
        ),
        Check("lag", lambda: lag.examine_lag(create_engine(patient), settings.kafka, clock), 30.0),
        Check(
            "guard",
            lambda: models.examine_guard(settings.guard, lambda: configured_guard(brisk, clock), clock),
            30.0,
        ),
        Check("daemon", lambda: running.examine_daemon(settings.metrics.host, settings.metrics.port)),
        Check("served models", lambda: models.examine_served(settings.served_models)),
        Check("adapters", lambda: load_probe.examine_adapters(settings), 30.0),
    )


def database_questions(settings: Settings, clock: Clock) -> Sequence[Question[asyncpg.Connection[Any]]]:
    """Everything that is asked of the database, in order; the schema first, since the rest relies on it."""
    from daemon.doctor import progress, store, training

    retention, kafka = settings.retention, settings.kafka
    needing = training.needing_trainer(settings)
    return (
        Question("database", store.check_server),
        Question("clock", lambda conn: store.check_clock(conn, clock)),
        Question("connections", lambda conn: store.check_connections(conn, settings.database.pool_size)),
        Question("schema", store.check_revision),
        Question(
            "partitions",
            lambda conn: store.check_partitions(conn, clock, retention.partitions_ahead_days),
        ),
        Question("halted partitions", progress.check_halts),
        Question("offset gaps", progress.check_gaps),
        Question("outbox", lambda conn: progress.check_outbox(conn, clock, kafka)),
        Question(
            "re-prompts",
            lambda conn: progress.check_reprompts(conn, clock, enabled=settings.reprompt.enabled),
        ),
        Question("dead letters", progress.check_dead_letters),
        Question("trainer", lambda conn: training.check_jobs(conn, clock, needing)),
        Question(
            "training runs",
            lambda conn: training.check_runs(conn, clock, settings.training.heartbeat_timeout_s),
        ),
        Question("response ids", lambda conn: progress.check_tenants(conn, clock)),
        Question("orphans", lambda conn: store.check_orphans(conn, clock), limit_s=20.0),
    )
