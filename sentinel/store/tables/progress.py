"""How far the logs were read, and what could not be read."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from sentinel.outcomes import Outcome
from sentinel.store.tables.base import NOW, Timestamp, metadata, one_of

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
    Column("first_seen", Timestamp, nullable=False, server_default=NOW),
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
    Column("updated_at", Timestamp, nullable=False, server_default=NOW),
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
    CheckConstraint(one_of("outcome", Outcome), name="outcome"),
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
    Column("noticed_at", Timestamp, nullable=False, server_default=NOW),
    CheckConstraint("to_offset > from_offset", name="not_empty"),
    UniqueConstraint("topic", "incarnation", "partition", "from_offset"),
)
"""Offsets that the log dropped before they were read: [from_offset, to_offset)."""

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", Timestamp, nullable=False, server_default=NOW),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False, server_default=""),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
)
"""Who changed what by hand; append only."""
