"""What is made of the findings, and what is in service."""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
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
