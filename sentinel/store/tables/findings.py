"""What follows from an unsafe answer."""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sentinel.findings import RepromptState
from sentinel.store.tables.base import NOW, Timestamp, metadata, one_of

findings = Table(
    "findings",
    metadata,
    Column("finding_id", Uuid, primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    Column("day", Date, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
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
    CheckConstraint(one_of("reprompt_state", RepromptState), name="reprompt_state"),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    Column("generator", Text, nullable=False),
    Column("instruction_version", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("finish_reason", Text),
    Column("unsafe", Boolean),
    Column("error", Text, nullable=False, server_default=""),
    Index("ix_reprompts_texts", "created_at", postgresql_where=text("response <> ''")),
)
"""Further answers of the served model under the safety instruction; ``response`` is emptied when texts expire."""

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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary),
    Column("headers", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("payload", LargeBinary),
    Column("sent_at", Timestamp),
    Index("ix_outbox_unsent", "topic", "id", postgresql_where=text("sent_at IS NULL")),
    Index("ix_outbox_sent_at", "sent_at", postgresql_where=text("sent_at IS NOT NULL")),
)
"""What must leave for Kafka, written with the rows it announces; ``headers`` is a list of [name, base64]."""
