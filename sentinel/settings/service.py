"""Settings of the service around the pipeline: store, retention, ports, logs, artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from sentinel.settings.section import Bytes, Count, Days, Fraction, Port, Seconds, Section, Topic

_PLAIN_SCHEMES = ("postgresql://", "postgres://")
_SCHEME = "postgresql+asyncpg://"


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class Database(Section):
    """PostgreSQL, the only place where anything is kept."""

    url: SecretStr = Field(
        SecretStr("postgresql+asyncpg://sentinel@127.0.0.1:5432/sentinel"),
        description="postgresql+asyncpg://user:password@host:port/database; a credential file suits it best.",
    )
    pool_size: Annotated[int, Field(ge=2, le=100)] = Field(
        6, description="Connections of one process at most."
    )
    connect_timeout_s: Seconds = Field(10.0, description="Time for a connection.")
    command_timeout_s: Seconds = Field(30.0, description="Time for one statement.")
    statement_cache_size: Annotated[int, Field(ge=0)] = Field(
        100, description="Prepared statements kept for each connection; 0 behind PgBouncer before 1.21."
    )
    application_name: str = Field("sentinel", min_length=1, description="Name shown in pg_stat_activity.")

    @field_validator("url")
    @classmethod
    def _async_driver(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        for scheme in _PLAIN_SCHEMES:
            if text.startswith(scheme):
                return SecretStr(_SCHEME + text[len(scheme) :])
        if not text.startswith(_SCHEME):
            raise ValueError(f"must start with {_SCHEME}")
        return value


class Retention(Section):
    """How long rows are kept, and how far ahead their partitions are made."""

    interactions_days: Days = Field(90, description="Interactions, verdicts and screenings.")
    texts_days: Days = Field(
        30,
        description="Prompts, responses, second answers and what else quotes them; at most interactions_days.",
    )
    pairs_days: Days = Field(
        365,
        description="Preference pairs, with their texts: each data set is made of all pairs that are kept.",
    )
    keys_days: Days = Field(
        100,
        description="Event keys, which recognise duplicates; let them outlive the topics' retention.",
    )
    dead_letters_days: Days = Field(30, description="Dead letters.")
    outbox_days: Days = Field(7, description="Outbox rows that have been sent.")
    partitions_ahead_days: Days = Field(7, description="Day partitions made ahead.")
    check_interval_s: Seconds = Field(3600.0, description="Time between two runs of the retention task.")

    @model_validator(mode="after")
    def _keys_outlive_rows(self) -> Self:
        # A key that is gone before its row would let a late duplicate in a second time.
        if not self.keys_days >= self.interactions_days >= self.texts_days:
            raise ValueError("keys_days >= interactions_days >= texts_days must hold")
        return self


class Findings(Section):
    """What leaves the product about a finding."""

    include_text: bool = Field(False, description="Whether findings on the topic carry prompt and response.")
    document: bool = Field(True, description="Announce each finding as a JSON document.")
    evaluation: bool = Field(
        True, description="Announce each finding as OpenTelemetry's gen_ai.evaluation.result (OTLP/JSON)."
    )
    evaluation_topic: Topic | None = Field(
        None,
        description="Topic of those log events; none: kafka.findings_topic. An OTLP receiver needs its own.",
    )


class MetricsServer(Section):
    """Where the daemon serves /metrics, /healthz and /readyz."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(
        8000, description="Port; a daemon with daemon.instance n >= 1 takes 8010 + n by default."
    )


class Api(Section):
    """Where the API and the console listen."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(8003, description="Port of the API and the console.")


class Route(Section):
    """The OpenAI-compatible pass-through."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(8004, description="Port of `sentinel route`.")
    metrics_port: Port = Field(8005, description="Port of its /metrics, /healthz and /readyz.")
    on_missing: Literal["base", "error"] = Field(
        "base",
        description="Where no replica has the promoted adapter: answer with the base, or with an error.",
    )
    follow_interval_s: Seconds = Field(0.5, description="Time between two looks at the promotions.")
    replica_check_s: Seconds = Field(2.0, description="Time between two looks at each replica.")
    connect_timeout_s: Seconds = Field(5.0, description="Time for a connection to a replica.")
    total_timeout_s: Seconds = Field(600.0, description="Time for one answer, its stream included.")
    max_body_bytes: Bytes = Field(
        33_554_432, description="Longest JSON body of a request; longer is refused."
    )
    drain_s: Seconds = Field(60.0, description="On SIGTERM: time for answers under way to end.")
    publish: bool = Field(
        True, description="Whether prompts and answers go to the first of kafka.topics as events."
    )
    queue_bytes: Bytes = Field(67_108_864, description="Calls in memory that wait to be published.")
    spool_dir: Path = Field(
        Path("runs/route"), description="Folder of events that wait for Kafka, and of the last mapping."
    )
    spool_max_bytes: Bytes = Field(
        1_073_741_824, description="Bytes of events on disk; what comes beyond is dropped and counted."
    )


class Logging(Section):
    """Log lines on stderr."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        "INFO", description="Lowest level of the product's own lines; third parties start at WARNING."
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, JSON lines elsewhere."
    )
    include_text: bool = Field(
        False, description="Whether log lines may carry prompts, responses and user names."
    )


class Adapters(Section):
    """Where adapters are kept, and how replicas get them."""

    store: Path = Field(
        Path("runs/adapters"),
        description="Folder of adapters in service; group-readable, the group is the folder's own (setgid).",
    )
    delivery: Literal["shared_path", "resolver_dir", "hub"] = Field(
        "shared_path",
        description="How a replica reads an adapter: shared_path, the folder above (see remote_prefix).",
    )

    @field_validator("delivery")
    @classmethod
    def _built(cls, value: str) -> str:
        # Accepted and not done would look like a replica that never finds its adapters.
        if value != "shared_path":
            raise ValueError(
                f"{value} is not supported by this release: share the folder adapters.store with the replicas"
                " (shared_path), and set served_models.*.remote_prefix where they see it under another path"
            )
        return value


class PromotionSettings(Section):
    """Who lets an adapter into service, how replicas prove it, and how it is watched afterwards."""

    mode: Literal["manual", "auto"] = Field(
        "manual", description="manual: a person approves; auto: the gate alone."
    )
    approvals: Annotated[int, Field(ge=1, le=10)] = Field(
        1, description="Persons that must approve in manual mode."
    )
    probe_timeout_s: Seconds = Field(
        60.0, description="Time for all replicas to load and prove an adapter; then the promotion fails."
    )
    reconcile_interval_s: Seconds = Field(10.0, description="Time between two looks at the replicas.")
    probe_interval_s: Seconds = Field(60.0, description="Age at which a replica's proof is made again.")
    unload_grace_s: Annotated[float, Field(ge=0)] = Field(
        30.0, description="How long a retired adapter stays loaded, for requests on their way to it."
    )
    wrong_looks: Count = Field(
        3,
        description="Looks in a row at which every replica answers wrongly for the adapter: it is rolled back.",
    )
    follow_interval_s: Seconds = Field(
        2.0,
        description="Time between two looks at what is in service, to say which adapter an event is from.",
    )
    watch_interval_s: Seconds = Field(5.0, description="Time between two looks of the test after promotion.")
    watch_alpha: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.01, description="Probability at most that an adapter as good as its predecessor is rolled back."
    )
    watch_from: Count = Field(200, description="Responses of the adapter before the test may act.")
    watch_responses: Count = Field(2000, description="Responses without alarm that count as proof.")
    watch_hours: Annotated[float, Field(gt=0)] = Field(24.0, description="Hours without alarm that do too.")
    watch_least_rate: Fraction = Field(
        0.01, description="Unsafe rate that never alarms, however good the predecessor was."
    )


class Daemon(Section):
    """The process itself."""

    instance: Annotated[int, Field(ge=0, le=999)] = Field(
        0, description="Number of this daemon on its host; from 1 on its metrics port is 8010 + n."
    )
    poller_deadline_s: Seconds = Field(
        10.0, description="Watchdog: longest silence of the poller (or drainer, or waiting breaker)."
    )
    writer_deadline_s: Seconds = Field(60.0, description="Watchdog: longest silence of the writer.")
    breaker_failures: Count = Field(5, description="Failures in a row of guard or database that stop intake.")
    breaker_probe_s: Seconds = Field(2.0, description="Time between probes while intake is stopped.")
