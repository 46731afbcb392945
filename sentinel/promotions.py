"""Which weights a served model's public name stands for, as announced on ``sentinel.promotions``."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from msgspec import Struct

from sentinel.states import ADAPTER_MOVES, AdapterState


class Promotion(Struct, frozen=True, kw_only=True):
    """One change of what is served; consumers ignore a generation lower than one they have seen."""

    promotion_id: UUID
    served_model: str
    generation: int
    adapter: str | None
    """Name of the adapter in service, None for the base."""
    previous_adapter: str | None
    action: str
    """``promote`` or ``rollback``."""
    gate_report_id: UUID | None
    created_at: dt.datetime


def may_move(old: AdapterState, new: AdapterState) -> bool:
    """Whether an adapter in state ``old`` may enter ``new``."""
    return new in ADAPTER_MOVES[old]
