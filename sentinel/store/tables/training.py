"""What is made of the findings, and what is in service."""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from sentinel.states import AdapterState, RunState
from sentinel.store.tables.base import NOW, Timestamp, metadata, one_of

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", Uuid, primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("content_sha256", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("manifest", JSONB, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    Column("started_at", Timestamp),
    Column("finished_at", Timestamp),
    Column("step", Text, nullable=False, server_default=""),
    Column("error", Text, nullable=False, server_default=""),
    Column("directory", Text, nullable=False, server_default=""),
    Column("hypothesis", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("heartbeat_at", Timestamp),
    CheckConstraint(one_of("state", RunState), name="state"),
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
    Column("fired_at", Timestamp, nullable=False, server_default=NOW),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    CheckConstraint(one_of("state", AdapterState), name="state"),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
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
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    CheckConstraint("action IN ('promote', 'rollback')", name="action"),
    UniqueConstraint("served_model", "generation"),
)
"""Append-only history of what each served model's public name stood for."""

dataset_pairs = Table(
    "dataset_pairs",
    metadata,
    Column("dataset_id", Uuid, ForeignKey("datasets.dataset_id", ondelete="CASCADE"), primary_key=True),
    Column("pair_id", Uuid, primary_key=True),
    Index("ix_dataset_pairs_pair_id", "pair_id"),
)
"""Which preference pairs a data set holds; a pair in none of them is fresh."""

trigger_states = Table(
    "trigger_states",
    metadata,
    Column("trigger", Text, primary_key=True),
    Column("served_model", Text, primary_key=True),
    Column("armed", Boolean, nullable=False, server_default=text("true")),
    Column("crossing", BigInteger, nullable=False, server_default="0"),
    Column("value", Double),
    Column("checked_at", Timestamp, nullable=False, server_default=NOW),
)
"""Whether each trigger may fire, and how often its threshold has been crossed."""

evaluation_versions = Table(
    "evaluation_versions",
    metadata,
    Column("served_model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("sets", JSONB, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    Column("retired_at", Timestamp),
)
"""Versions of a served model's evaluation sets; one is retired after 20 tries."""

evaluation_tries = Table(
    "evaluation_tries",
    metadata,
    Column("served_model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("candidate_sha256", Text, primary_key=True),
    Column("k", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False, server_default=NOW),
    CheckConstraint("k >= 1", name="k"),
    UniqueConstraint("served_model", "version", "k"),
)
"""The budget of tries: the k-th distinct candidate that answered a version's prompts, whatever the verdict."""

adapter_moves = Table(
    "adapter_moves",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("adapter", Text, nullable=False),
    Column("old_state", Text),
    Column("new_state", Text, nullable=False),
    Column("at", Timestamp, nullable=False, server_default=text("clock_timestamp()")),
    Index("ix_adapter_moves_adapter", "adapter", "id"),
)
"""Append-only: every state an adapter entered, written by the database itself."""

approvals = Table(
    "approvals",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("adapter", Text, ForeignKey("adapters.adapter"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("comment", Text, nullable=False, server_default=""),
    Column("at", Timestamp, nullable=False, server_default=NOW),
    CheckConstraint("decision IN ('approve', 'reject')", name="decision"),
    UniqueConstraint("adapter", "actor"),
)
"""Who let an adapter in, or did not, in manual mode."""

freezes = Table(
    "freezes",
    metadata,
    Column("served_model", Text, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("since", Timestamp, nullable=False, server_default=NOW),
)
"""Served models that are neither retrained nor promoted now; ``*`` stands for all."""

promotion_watches = Table(
    "promotion_watches",
    metadata,
    Column("promotion_id", Uuid, ForeignKey("promotions.promotion_id"), primary_key=True),
    Column("served_model", Text, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("limit_rate", Double, nullable=False),
    Column("alpha", Double, nullable=False),
    Column("state", Text, nullable=False, server_default="watching"),
    Column("responses", BigInteger, nullable=False, server_default="0"),
    Column("unsafe", BigInteger, nullable=False, server_default="0"),
    Column("log_e_value", Double, nullable=False, server_default=text("0")),
    Column("started_at", Timestamp, nullable=False, server_default=NOW),
    Column("ended_at", Timestamp),
    CheckConstraint("state IN ('watching', 'proven', 'alarmed', 'ended')", name="state"),
)
"""The sequential test of a promoted adapter's live unsafe rate against its predecessor's."""
