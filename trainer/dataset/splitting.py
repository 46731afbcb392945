"""Training and validation rows: split by groups of near prompts, never by row, with a share of every category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from trainer.dataset.likeness import clusters
from trainer.dataset.rows import Row, asked, rank


def groups_of(rows: Sequence[Row], threshold: float) -> list[int]:
    """Each row's group: rows whose prompts are near duplicates, whatever their answers, are in one."""
    return clusters([asked(row.prompt) for row in rows], threshold)


def split(
    rows: Sequence[Row], groups: Sequence[int], *, share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Training and validation rows, each in an order drawn by the seed; every row is in one of them.

    Whole groups go to validation until it holds ``share`` of its stratum's rows (kind and family of the group's
    first row), rounded down; where all strata are too small for that, one group goes there.
    No group is in both. A set of a single group has no validation rows.
    """
    members: defaultdict[int, list[Row]] = defaultdict(list)
    for row, group in zip(rows, groups, strict=True):
        members[group].append(row)
    strata: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for group, own in members.items():
        strata[own[0].kind.value, own[0].family].append(group)
    drawn = {
        group: rank(seed, "group", *sorted(str(row.row_id) for row in own)) for group, own in members.items()
    }
    held_out: set[int] = set()
    for listed in strata.values():
        room = int(share * sum(len(members[group]) for group in listed))
        for group in sorted(listed, key=drawn.__getitem__):
            if len(members[group]) <= room:
                held_out.add(group)
                room -= len(members[group])
    if not held_out and len(members) > 1:
        held_out.add(min(members, key=lambda group: (len(members[group]), drawn[group])))

    def part(validation: bool) -> list[Row]:
        chosen = [
            row
            for row, group in zip(rows, groups, strict=True)
            if (group in held_out) is validation
        ]  # fmt: skip
        return sorted(chosen, key=lambda row: (rank(seed, "row", row.row_id), row.row_id))

    return part(False), part(True)
