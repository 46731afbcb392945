"""What was said and what guards said about it."""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sentinel.store.tables.base import NOW, Timestamp, metadata, one_of
from sentinel.verdicts import Label, Role, ScreeningLabel

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
    Column("recorded_at", Timestamp, nullable=False, server_default=NOW),
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
    CheckConstraint(one_of("label", Label), name="label"),
    CheckConstraint(one_of("role", Role), name="role"),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    CheckConstraint(one_of("label", ScreeningLabel), name="label"),
    postgresql_partition_by="RANGE (day)",
)
"""What the local first stage said; never a verdict."""

PARTITIONED = ("interactions", "interaction_texts", "verdicts", "screenings")
"""Tables partitioned by ``day``."""
