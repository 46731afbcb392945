"""Every table of the store, as SQLAlchemy Core metadata; migrations are proven equal to it.

Partitioned by day of first receipt (UTC): ``interactions``, ``interaction_texts``, ``verdicts``, ``screenings``.
Nothing refers to them by foreign key and there is no DEFAULT partition: both would block dropping a day.
Rows of ``APPEND_ONLY`` are never changed or deleted: a trigger refuses it.
"""

from __future__ import annotations

from sentinel.store.tables.base import metadata
from sentinel.store.tables.events import (
    PARTITIONED,
    event_keys,
    interaction_texts,
    interactions,
    screenings,
    verdicts,
)
from sentinel.store.tables.findings import findings, outbox, preference_pairs, reprompts
from sentinel.store.tables.progress import (
    audit_log,
    consumer_offsets,
    dead_letters,
    offset_gaps,
    partition_outcomes,
)
from sentinel.store.tables.training import (
    adapter_moves,
    adapters,
    approvals,
    dataset_pairs,
    datasets,
    evaluation_tries,
    evaluation_versions,
    freezes,
    gate_reports,
    promotion_watches,
    promotions,
    training_runs,
    trigger_firings,
    trigger_states,
)

__all__ = [
    "APPEND_ONLY",
    "PARTITIONED",
    "adapter_moves",
    "adapters",
    "approvals",
    "audit_log",
    "consumer_offsets",
    "dataset_pairs",
    "datasets",
    "dead_letters",
    "evaluation_tries",
    "evaluation_versions",
    "event_keys",
    "findings",
    "freezes",
    "gate_reports",
    "interaction_texts",
    "interactions",
    "metadata",
    "offset_gaps",
    "outbox",
    "partition_outcomes",
    "preference_pairs",
    "promotion_watches",
    "promotions",
    "reprompts",
    "screenings",
    "training_runs",
    "trigger_firings",
    "trigger_states",
    "verdicts",
]

APPEND_ONLY = ("audit_log", "promotions", "evaluation_tries", "adapter_moves", "approvals")
"""Who did what, every state of every adapter, the tries that were used up; no term of retention reaches them."""
