"""Every consumed item ends in exactly one outcome; all but ``stored`` carry a reason."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Metric label, column and API value of one item's end."""

    STORED = "stored"
    UNSCORED = "unscored"
    DUPLICATE = "duplicate"
    DEAD_LETTER = "dead_letter"
    IGNORED = "ignored"


UNSCORED_REASONS = frozenset(
    {"empty_response", "screened", "unsampled", "unparseable", "guard_error", "guard_refused"}
)
"""Why an item was stored without a verdict on its response. Never counted as safe."""

IGNORED_REASONS = frozenset(
    {
        "tombstone",
        "not_generation",
        "no_content",
        "redacted",
        "own_traffic",
        "parent_span",
        "failed_call",
        "not_replayed",
    }
)
"""Why a well-formed item is not an interaction."""

DEAD_LETTER_REASONS = frozenset(
    {
        "invalid_json",
        "invalid_protobuf",
        "invalid_encoding",
        "unknown_schema",
        "unsupported_schema",
        "missing_field",
        "invalid_field",
        "too_deep",
        "too_large",
        "too_many_items",
        "decoder_error",
        "store_rejected",
    }
)
"""Why a record or item can never be processed."""

DUPLICATE_REASONS = frozenset({"seen"})
"""The same call was recorded before, or earlier in the same flush."""
