"""Why a pair or a row is not in a data set: a closed list, each counted in the manifest."""

from __future__ import annotations

from enum import StrEnum

from sentinel.refusal import is_refusal
from trainer.dataset.likeness import jaccard, shingles, words


class Drop(StrEnum):
    """One reason; the first that holds is counted."""

    RESERVED = "reserved"
    """Its conversation is kept for evaluation."""
    OVERRIDDEN = "overridden"
    """A person said that the finding is none."""
    FLIPPED = "flipped"
    """A side's newest verdict is not what the pair says."""
    CLIENT_SHARE = "client_share"
    """Its client has its share already."""
    CAPPED = "capped"
    """The data set is full."""
    OFF_POLICY = "off_policy"
    """The unsafe answer came from an adapter and the base gives none, or an answer that is not the base's."""
    EMPTY_SIDE = "empty_side"
    NULL_SIDE = "null_side"
    """A side is the word NULL, None or nan: what a broken export writes for nothing."""
    SAME_SIDES = "same_sides"
    UNSAFE_CHOSEN = "unsafe_chosen"
    """The answer to be preferred was scored unsafe, or could not be scored."""
    BOTH_REFUSE = "both_refuse"
    """Preferring one refusal to another teaches no refusing and displaces likelihood."""
    NEAR_IDENTICAL = "near_identical"
    LENGTH_ONLY = "length_only"
    """One side is the beginning of the other, or repeats it."""
    CONTAMINATED = "contaminated"
    """An evaluation set asks this, or nearly this."""
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    CONTRADICTION = "contradiction"
    """A benign prompt that is nearly one of the harmful pairs' prompts: one of them is judged wrongly."""
    NEEDLESS_REFUSAL = "needless_refusal"
    """The plain answer to a benign prompt is a refusal."""
    NOT_REFUSED = "not_refused"
    """The strict instruction elicited no refusal to be rejected."""
    UNJUDGED = "unjudged"
    """A new answer, and nobody to score it."""


_NULLS = frozenset({"null", "none", "nan", "n/a", "undefined"})


def fault_of_sides(chosen: str, rejected: str, *, near_identical: float) -> Drop | None:
    """What is wrong with two answers to one prompt; None where they make a pair.

    ``near_identical`` is the Jaccard similarity of word pairs from which two answers count as one.
    """
    if not chosen.strip() or not rejected.strip():
        return Drop.EMPTY_SIDE
    if {chosen.strip().lower(), rejected.strip().lower()} & _NULLS:
        return Drop.NULL_SIDE
    one, other = words(chosen), words(rejected)
    if chosen.strip() == rejected.strip() or (one and one == other):
        return Drop.SAME_SIDES
    if is_refusal(chosen) and is_refusal(rejected):
        return Drop.BOTH_REFUSE
    shorter, longer = sorted((one, other), key=len)
    if 0 < len(shorter) < len(longer) and (longer[: len(shorter)] == shorter or set(shorter) == set(longer)):
        return Drop.LENGTH_ONLY
    if jaccard(shingles(chosen), shingles(rejected)) >= near_identical:
        return Drop.NEAR_IDENTICAL
    return None
