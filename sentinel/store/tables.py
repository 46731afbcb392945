"""Every table of the store, as SQLAlchemy Core metadata; migrations are proven equal to it.

Partitioned by day of first receipt (UTC): ``interactions``, ``interaction_texts``, ``verdicts``, ``screenings``.
Nothing refers to them by foreign key and there is no DEFAULT partition: both would block dropping a day.
"""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sentinel.findings import RepromptState
from sentinel.outcomes import Outcome
from sentinel.states import AdapterState, RunState
from sentinel.verdicts import Label, Role, ScreeningLabel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Timestamp = DateTime(timezone=True)
_NOW = text("now()")


def _one_of(
    column: str, values: type[Outcome | RepromptState | RunState | AdapterState | Label | Role]
) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


event_keys = Table(
    "event_keys",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("day", Date, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("topic", Text, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("item", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    CheckConstraint("outcome IN ('stored', 'unscored')", name="outcome"),
    Index("ix_event_keys_day", "day", postgresql_using="brin"),
)
"""Decides duplicates, across days; keys outlive the topic's retention."""

interactions = Table(
    "interactions",
    metadata,
    Column("day", Date, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("received_at", Timestamp, nullable=False),
    Column("recorded_at", Timestamp, nullable=False, server_default=_NOW),
    Column("event_time", Timestamp),
    Column("format", Text, nullable=False),
    Column("source", Text),
    Column("tenant", Text),
    Column("model", Text),
    Column("provider", Text),
    Column("user_ref", Text),
    Column("conversation_id", Text),
    Column("response_id", Text),
    Column("choice", SmallInteger, nullable=False, server_default="0"),
    Column("served_model", Text),
    Column("served_by", Text),
    Column("finish_reason", Text),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("trace_id", Text),
    Column("span_id", Text),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("prompt_label", Text),
    Column("response_label", Text),
    Column("refusal", Boolean),
    Column("unsafe", Boolean),
    Column("prompt_unscored", Text, nullable=False, server_default=""),
    Column("policy_version", Text, nullable=False),
    Column("guard_model", Text),
    Column("sampling_probability", REAL, nullable=False, server_default="1"),
    Column("flags", Integer, nullable=False, server_default="0"),
    Column("unscanned_parts", Integer, nullable=False, server_default="0"),
    Column("attrs", JSONB),
    CheckConstraint("outcome IN ('stored', 'unscored')", name="outcome"),
    CheckConstraint("(outcome = 'stored') = (unsafe IS NOT NULL)", name="scored_or_unknown"),
    Index("ix_interactions_recorded_at", "recorded_at", postgresql_using="brin"),
    Index("ix_interactions_unsafe", "recorded_at", postgresql_where=text("unsafe")),
    Index("ix_interactions_served", "served_model", "served_by", "recorded_at"),
    postgresql_partition_by="RANGE (day)",
)
"""One row an event that was kept, scored or not; texts are apart so that they can expire first."""

interaction_texts = Table(
    "interaction_texts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("messages", JSONB, nullable=False),
    Column("response", Text, nullable=False),
    Column("response_extra", Text, nullable=False, server_default=""),
    Column("client_verdicts", JSONB),
    postgresql_partition_by="RANGE (day)",
)
"""Prompt and answer of an interaction; ``messages`` is a list of {role, text}."""

verdicts = Table(
    "verdicts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("attempt", SmallInteger, primary_key=True),
    Column("guard_id", Text, primary_key=True),
    Column("score_run", Integer, primary_key=True),
    Column("label", Text, nullable=False),
    Column("categories", ARRAY(Text), nullable=False),
    Column("refusal", Boolean),
    Column("score", REAL),
    Column("raw", Text, nullable=False),
    Column("guard_model", Text, nullable=False),
    Column("template", Text, nullable=False),
    Column("policy_version", Text, nullable=False),
    Column("windows", SmallInteger, nullable=False, server_default="1"),
    CheckConstraint(_one_of("label", Label), name="label"),
    CheckConstraint(_one_of("role", Role), name="role"),
    postgresql_partition_by="RANGE (day)",
)
"""The first stored verdict of a key is final; re-scoring writes another ``score_run``."""

screenings = Table(
    "screenings",
    metadata,
    Column("day", Date, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("screener_id", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("score", REAL),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint(f"label IN ({', '.join(repr(v.value) for v in ScreeningLabel)})", name="label"),
    postgresql_partition_by="RANGE (day)",
)
"""What the local first stage said; never a verdict."""

PARTITIONED = ("interactions", "interaction_texts", "verdicts", "screenings")
"""Tables partitioned by ``day``."""

findings = Table(
    "findings",
    metadata,
    Column("finding_id", Uuid, primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    Column("day", Date, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    Column("policy_version", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("categories", ARRAY(Text), nullable=False),
    Column("score", REAL),
    Column("guard_id", Text, nullable=False),
    Column("source", Text),
    Column("tenant", Text),
    Column("model", Text),
    Column("served_model", Text),
    Column("served_by", Text),
    Column("response_id", Text),
    Column("trace_id", Text),
    Column("span_id", Text),
    Column("reprompt_state", Text, nullable=False, server_default="pending"),
    Column("lease_id", Uuid),
    Column("lease_until", Timestamp),
    Column("claims", SmallInteger, nullable=False, server_default="0"),
    CheckConstraint(_one_of("reprompt_state", RepromptState), name="reprompt_state"),
    Index("ix_findings_created_at", "created_at", "finding_id"),
    Index(
        "ix_findings_claimable",
        "created_at",
        postgresql_where=text("reprompt_state IN ('pending', 'claimed')"),
    ),
)
"""One row an unsafe answer, with the policy that made it one and the state of its second answer."""

reprompts = Table(
    "reprompts",
    metadata,
    Column("finding_id", Uuid, ForeignKey("findings.finding_id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", SmallInteger, primary_key=True),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    Column("generator", Text, nullable=False),
    Column("instruction_version", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("finish_reason", Text),
    Column("unsafe", Boolean),
    Column("error", Text, nullable=False, server_default=""),
)
"""Further answers of the served model under the safety instruction."""

preference_pairs = Table(
    "preference_pairs",
    metadata,
    Column("pair_id", Uuid, primary_key=True),
    Column("finding_id", Uuid, ForeignKey("findings.finding_id", ondelete="CASCADE"), nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("served_model", Text, nullable=False),
    Column("prompt", JSONB, nullable=False),
    Column("chosen", Text, nullable=False),
    Column("rejected", Text, nullable=False),
    Column("chosen_generator", Text, nullable=False),
    Column("rejected_generator", Text, nullable=False),
    Column("guard_id", Text, nullable=False),
    Column("policy_version", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint("chosen <> rejected", name="sides_differ"),
    CheckConstraint("chosen <> '' AND rejected <> ''", name="sides_not_empty"),
    Index("ix_preference_pairs_served", "served_model", "created_at"),
    Index("ix_preference_pairs_finding_id", "finding_id"),
)
"""Both sides judged by a full guard; the prompt is without the safety instruction."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary),
    Column("headers", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("payload", LargeBinary),
    Column("sent_at", Timestamp),
    Index("ix_outbox_unsent", "topic", "id", postgresql_where=text("sent_at IS NULL")),
    Index("ix_outbox_sent_at", "sent_at", postgresql_where=text("sent_at IS NOT NULL")),
)
"""What must leave for Kafka, written with the rows it announces; ``headers`` is a list of [name, base64]."""

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("dead_letter_id", Uuid, primary_key=True),
    Column("topic", Text, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("item", Integer, nullable=False),
    Column("event_id", Uuid),
    Column("record_timestamp", Timestamp),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
    Column("error_class", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("code_version", Text, nullable=False),
    Column("first_seen", Timestamp, nullable=False, server_default=_NOW),
    Column("replay_token", Text),
    Column("replayed_at", Timestamp),
    Column("replays", Integer, nullable=False, server_default="0"),
    Index("ix_dead_letters_first_seen", "first_seen", "dead_letter_id"),
    Index("ix_dead_letters_reason", "reason"),
)
"""Records and items that can never be processed, whole, until someone replays or drops them."""

consumer_offsets = Table(
    "consumer_offsets",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("cluster_id", Text, nullable=False),
    Column("group_id", Text, nullable=False),
    Column("incarnation", Integer, nullable=False, server_default="0"),
    Column("epoch", BigInteger, nullable=False, server_default="1"),
    Column("owner", Text, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("last_timestamp_ms", BigInteger),
    Column("records", BigInteger, nullable=False, server_default="0"),
    Column("holes", BigInteger, nullable=False, server_default="0"),
    Column("lost", BigInteger, nullable=False, server_default="0"),
    Column("halted", Text),
    Column("halted_detail", Text),
    Column("halted_at", Timestamp),
    Column("bad_allowance", BigInteger, nullable=False, server_default="0"),
    Column("updated_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint("next_offset >= first_offset", name="forward"),
)
"""The fence and the progress of each partition: ``epoch`` belongs to one owner, ``next_offset`` only rises.

``records`` + ``holes`` + ``lost`` = ``next_offset`` - ``first_offset``. Holes are offsets that carry no record
(transaction markers, compaction); lost ones were dropped by the log before they were read (`offset_gaps`).
``last_timestamp_ms`` belongs to the record at ``next_offset`` - 1."""

partition_outcomes = Table(
    "partition_outcomes",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("reason", Text, primary_key=True, server_default=""),
    Column("n", BigInteger, nullable=False),
    CheckConstraint(_one_of("outcome", Outcome), name="outcome"),
)
"""How many items ended how; grows only in the transaction that moves the partition's next offset."""

offset_gaps = Table(
    "offset_gaps",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("from_offset", BigInteger, nullable=False),
    Column("to_offset", BigInteger, nullable=False),
    Column("noticed_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint("to_offset > from_offset", name="not_empty"),
    UniqueConstraint("topic", "incarnation", "partition", "from_offset"),
)
"""Offsets that the log dropped before they were read: [from_offset, to_offset)."""

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", Timestamp, nullable=False, server_default=_NOW),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False, server_default=""),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)
"""Who changed what by hand; append only."""

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", Uuid, primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("content_sha256", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("manifest", JSONB, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
)
"""Data sets of preference pairs."""

training_runs = Table(
    "training_runs",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="queued"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("dataset_id", Uuid, ForeignKey("datasets.dataset_id")),
    Column("config", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("progress", REAL, nullable=False, server_default="0"),
    Column("log_tail", Text, nullable=False, server_default=""),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    Column("started_at", Timestamp),
    Column("finished_at", Timestamp),
    CheckConstraint(_one_of("state", RunState), name="state"),
    CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
    Index(
        "uq_training_runs_running",
        "served_model",
        "kind",
        unique=True,
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
)
"""Runs of the trainer; one queued or running a served model and kind."""

trigger_firings = Table(
    "trigger_firings",
    metadata,
    Column("trigger", Text, primary_key=True),
    Column("served_model", Text, primary_key=True),
    Column("crossing", BigInteger, primary_key=True),
    Column("family", Text),
    Column("run_id", Uuid, ForeignKey("training_runs.run_id")),
    Column("fired_at", Timestamp, nullable=False, server_default=_NOW),
    Column("evidence", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)
"""One row a crossing: a late replica finds it and starts no second run."""

adapters = Table(
    "adapters",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("run_id", Uuid, ForeignKey("training_runs.run_id")),
    Column("state", Text, nullable=False, server_default="candidate"),
    Column("path", Text, nullable=False),
    Column("weights_sha256", Text, nullable=False),
    Column("manifest", JSONB, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint(_one_of("state", AdapterState), name="state"),
    Index("uq_adapters_promoted", "served_model", unique=True, postgresql_where=text("state = 'promoted'")),
)
"""LoRA weights by content-addressed name; one promoted a served model."""

gate_reports = Table(
    "gate_reports",
    metadata,
    Column("gate_report_id", Uuid, primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("adapter", Text, ForeignKey("adapters.adapter"), nullable=False),
    Column("incumbent", Text),
    Column("verdict", Text, nullable=False),
    Column("bundle_sha256", Text, nullable=False),
    Column("report", JSONB, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint("verdict IN ('pass', 'fail', 'inconclusive')", name="verdict"),
)
"""What the gate decided and on which evidence."""

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", Uuid, primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("adapter", Text, ForeignKey("adapters.adapter")),
    Column("previous_adapter", Text, ForeignKey("adapters.adapter")),
    Column("action", Text, nullable=False),
    Column("gate_report_id", Uuid, ForeignKey("gate_reports.gate_report_id")),
    Column("actor", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=_NOW),
    CheckConstraint("action IN ('promote', 'rollback')", name="action"),
    UniqueConstraint("served_model", "generation"),
)
"""Append-only history of what each served model's public name stood for."""
