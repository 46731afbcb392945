"""Every table of the store, as SQLAlchemy Core metadata; migrations are proven equal to it.

Partitioned by day of first receipt (UTC): ``interactions``, ``interaction_texts``, ``verdicts``, ``screenings``.
Nothing refers to them by foreign key and there is no DEFAULT partition: both would block dropping a day.
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
    adapters,
    datasets,
    gate_reports,
    promotions,
    training_runs,
    trigger_firings,
)

__all__ = [
    "PARTITIONED",
    "adapters",
    "audit_log",
    "consumer_offsets",
    "datasets",
    "dead_letters",
    "event_keys",
    "findings",
    "gate_reports",
    "interaction_texts",
    "interactions",
    "metadata",
    "offset_gaps",
    "outbox",
    "partition_outcomes",
    "preference_pairs",
    "promotions",
    "reprompts",
    "screenings",
    "training_runs",
    "trigger_firings",
    "verdicts",
]
