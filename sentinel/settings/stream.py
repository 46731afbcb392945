"""Settings of what comes in: Kafka, its security, and the consumer's limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from sentinel.settings.section import (
    Bytes,
    Count,
    Fraction,
    Milliseconds,
    Seconds,
    Section,
    Servers,
    Topic,
    Topics,
)


class KafkaSecurity(Section):
    """How the brokers are reached: plain, TLS, SASL, client certificates."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Listener protocol of the brokers."
    )
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism; needed by the SASL protocols."
    )
    username: str | None = Field(None, description="SASL user name.")
    password: SecretStr | None = Field(None, description="SASL password.")
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that sign the brokers' certificates; none: the system's.",
    )
    cert_file: Path | None = Field(None, description="PEM file of the client certificate (mutual TLS).")
    key_file: Path | None = Field(None, description="PEM file of the client certificate's key.")
    key_password: SecretStr | None = Field(None, description="Password of that key, where it has one.")
    check_hostname: bool = Field(True, description="Require that a broker's certificate names its host.")

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        sasl = self.protocol.startswith("SASL_")
        tls = self.protocol.endswith("SSL")
        if sasl and not (self.mechanism and self.username and self.password):
            raise ValueError(f"protocol {self.protocol} needs mechanism, username and password")
        # A password that no listener asks for means that the protocol was forgotten: the connection would be
        # open to anybody while its owner believes that it is not.
        if not sasl and (self.mechanism or self.username or self.password):
            raise ValueError(f"mechanism, username and password are not used by protocol {self.protocol}")
        if not tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError(f"ca_file, cert_file and key_file are not used by protocol {self.protocol}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self


TopicFormat = Literal["native", "cloudevents", "otlp", "otlp_proto", "otlp_json", "litellm", "openai"]
"""What `consumers.formats` can be told to expect; a test holds the two lists together."""


class Kafka(Section):
    """The log that events are read from, and the topics that are written."""

    bootstrap_servers: Servers = Field(
        ("127.0.0.1:9092",), description="Brokers to ask first, host:port each; a list or comma-separated."
    )
    topics: Topics = Field(("llm.events",), description="Topics with prompt/response events.")
    topic_formats: Mapping[str, TopicFormat] = Field(
        default_factory=dict,
        description="Format of a topic's records where their headers do not say it: {topic: format}.",
    )
    group_id: str = Field("sentinel", min_length=1, description="Consumer group.")
    instance_id: str | None = Field(
        None,
        min_length=1,
        description="Static membership: a name that only this process has in the group. None: dynamic.",
    )
    client_id: str = Field(
        "sentinel", min_length=1, description="Name shown in the brokers' logs and quotas."
    )
    start: Literal["earliest", "latest"] = Field(
        "earliest", description="Where a partition starts that the store has no offset for."
    )
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed", description="Whether records of aborted transactions are skipped."
    )
    session_timeout_ms: Milliseconds = Field(
        45_000, description="Silence after which the group drops a member."
    )
    heartbeat_interval_ms: Milliseconds = Field(3_000, description="Time between heartbeats.")
    rebalance_timeout_ms: Milliseconds = Field(
        60_000, description="Time for draining when partitions are taken away."
    )
    max_poll_interval_ms: Milliseconds = Field(
        600_000, description="Time without a poll after which the client leaves the group."
    )
    fetch_max_wait_ms: Milliseconds = Field(500, description="How long a broker holds an empty fetch.")
    fetch_max_bytes: Bytes = Field(52_428_800, description="Bytes of one fetch over all partitions.")
    max_partition_fetch_bytes: Bytes = Field(1_048_576, description="Bytes of one fetch for one partition.")
    request_timeout_ms: Milliseconds = Field(40_000, description="Time for a broker's answer.")
    metadata_max_age_ms: Milliseconds = Field(60_000, description="Age at which topics are looked up again.")
    security: KafkaSecurity = Field(default_factory=KafkaSecurity, description="Protocol, SASL and TLS.")
    findings_topic: Topic = Field("sentinel.findings", description="Topic that findings leave for.")
    dead_letters_topic: Topic = Field(
        "sentinel.dead-letters", description="Topic of records that cannot be read."
    )
    promotions_topic: Topic = Field("sentinel.promotions", description="Compacted topic of promotions.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # The broker drops a member whose session holds fewer than about three heartbeats at the first hiccup.
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("session_timeout_ms must be at least three times heartbeat_interval_ms")
        outputs = {self.findings_topic, self.dead_letters_topic, self.promotions_topic}
        if len(outputs) < 3:
            raise ValueError("findings_topic, dead_letters_topic and promotions_topic must differ")
        if looped := sorted(outputs.intersection(self.topics)):
            raise ValueError(f"topics must not contain the product's own output: {', '.join(looped)}")
        if unknown := sorted(set(self.topic_formats).difference(self.topics)):
            raise ValueError(f"topic_formats names topics that are not consumed: {', '.join(unknown)}")
        return self


class Consumer(Section):
    """Limits of the consuming process: what it holds, when it writes, when it stops."""

    in_flight: Count = Field(512, description="Events at the guard at the same time.")
    span_factor: Count = Field(
        4,
        description="Offsets held open over all partitions, as a multiple of in_flight.",
    )
    max_buffered_bytes: Bytes = Field(
        268_435_456, description="Bytes of records in memory before intake waits."
    )
    max_record_bytes: Bytes = Field(10_485_760, description="A larger record is a dead letter (too_large).")
    flush_rows: Count = Field(500, description="Events that make the writer flush at once.")
    flush_interval_ms: Milliseconds = Field(30, description="Longest wait of a finished event for its flush.")
    commit_interval_s: Seconds = Field(1.0, description="Time between commits of Kafka's own group offset.")
    order: Literal["none", "key"] = Field(
        "none", description="none: events are independent; key: one after the other for each record key."
    )
    bad_ratio: Fraction = Field(0.5, description="Share of bad records in the window that halts a partition.")
    bad_window: Count = Field(200, description="Records of that window.")
    bad_consecutive: Count = Field(100, description="Bad records in a row that halt a partition.")
    halt_check_s: Seconds = Field(
        5.0, description="How often a halted partition looks for an operator's word."
    )
    sampling: Mapping[str, Fraction] = Field(
        default_factory=dict,
        description="Probability of scoring an event, by its source: {glob: probability}; default 1.",
    )
    stop_intake_s: Seconds = Field(5.0, description="On SIGTERM: time for the poll under way to end.")
    drain_s: Seconds = Field(45.0, description="On SIGTERM: time for events in flight to be scored.")
    flush_s: Seconds = Field(10.0, description="On SIGTERM: time for the last flush and commit.")

    @property
    def span(self) -> int:
        """Offsets that may be held open by this process, over all its partitions."""
        return self.in_flight * self.span_factor

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # A record larger than the buffer would never find room and stop its partition for ever.
        if self.max_record_bytes > self.max_buffered_bytes:
            raise ValueError("max_buffered_bytes must be at least max_record_bytes")
        return self
