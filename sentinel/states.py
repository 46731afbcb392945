"""Legal states of runs and adapters, and the legal moves; the database enforces the same sets."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """States of a training run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AdapterState(StrEnum):
    """States of an adapter between training and retirement."""

    CANDIDATE = "candidate"
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"
    AWAITING_APPROVAL = "awaiting_approval"
    LOADING = "loading"
    PROBING = "probing"
    PROMOTED = "promoted"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.FAILED}),
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}
"""From each run state, where it may go."""

ADAPTER_MOVES: dict[AdapterState, frozenset[AdapterState]] = {
    AdapterState.CANDIDATE: frozenset(
        {
            AdapterState.REJECTED,
            AdapterState.INCONCLUSIVE,
            AdapterState.AWAITING_APPROVAL,
            AdapterState.LOADING,
            AdapterState.FAILED,
        }
    ),
    AdapterState.REJECTED: frozenset(),
    AdapterState.INCONCLUSIVE: frozenset(),
    AdapterState.AWAITING_APPROVAL: frozenset(
        {AdapterState.LOADING, AdapterState.REJECTED, AdapterState.FAILED}
    ),
    AdapterState.LOADING: frozenset({AdapterState.PROBING, AdapterState.FAILED}),
    AdapterState.PROBING: frozenset({AdapterState.PROMOTED, AdapterState.FAILED}),
    AdapterState.PROMOTED: frozenset({AdapterState.SUPERSEDED, AdapterState.ROLLED_BACK}),
    AdapterState.SUPERSEDED: frozenset({AdapterState.PROMOTED}),
    AdapterState.ROLLED_BACK: frozenset(),
    AdapterState.FAILED: frozenset(),
}
"""From each adapter state, where it may go; superseded -> promoted is the rollback's other half."""
