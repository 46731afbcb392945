"""Who may take how many places: equal shares by category, and no client above its share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from trainer.dataset.rows import rank
from trainer.pairs import StoredPair


def equal_shares(sizes: Mapping[str, int], places: int) -> dict[str, int]:
    """Places for each name: as equal as the sizes allow, ``places`` in all (fewer where there are not as many)."""
    left = min(places, sum(sizes.values()))
    given = dict.fromkeys(sizes, 0)
    # The smallest first: what it leaves is shared by the others.
    for at, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        given[name] = min(sizes[name], left // (len(sizes) - at))
        left -= given[name]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        more = min(left, sizes[name] - given[name])
        given[name] += more
        left -= more
    return given


def client_limit(sizes: Mapping[str, int], share: float, least: int) -> int:
    """The most that one client may bring, so that no client has more than ``share`` of what is left.

    A client alone may bring all. With fewer clients than 1 / share the share is 1 / clients. Nobody is held
    below ``least``: too few for a data set in any case, and a client with three pairs must not stop another.
    """
    if len(sizes) < 2:
        return max(sizes.values(), default=0)
    allowed = max(share, 1 / len(sizes))
    # The largest client's share grows with the limit, so the limit is found by halving.
    low, high = min(least, max(sizes.values())), max(sizes.values())
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= allowed * sum(min(size, middle) for size in sizes.values()) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return low


def within_shares(
    pairs: Sequence[StoredPair], *, share: float, least: int, seed: int
) -> tuple[list[StoredPair], list[StoredPair]]:
    """Pairs that stay and pairs over their client's share; which ones stay is drawn by the seed."""
    by_client: defaultdict[str, list[StoredPair]] = defaultdict(list)
    for pair in pairs:
        by_client[pair.client].append(pair)
    limit = client_limit({name: len(own) for name, own in by_client.items()}, share, least)
    return _drawn(pairs, by_client, dict.fromkeys(by_client, limit), seed)


def within_places(
    pairs: Sequence[StoredPair], *, places: int, seed: int
) -> tuple[list[StoredPair], list[StoredPair]]:
    """Pairs that have a place, equal by family, and pairs that have none."""
    by_family: defaultdict[str, list[StoredPair]] = defaultdict(list)
    for pair in pairs:
        by_family[pair.family].append(pair)
    shares = equal_shares({name: len(own) for name, own in by_family.items()}, places)
    return _drawn(pairs, by_family, shares, seed)


def _drawn(
    pairs: Sequence[StoredPair],
    groups: Mapping[str, Sequence[StoredPair]],
    places: Mapping[str, int],
    seed: int,
) -> tuple[list[StoredPair], list[StoredPair]]:
    kept = {
        pair.pair_id
        for name, own in groups.items()
        for pair in sorted(own, key=lambda pair: rank(seed, "place", pair.pair_id))[: places[name]]
    }
    return (
        [pair for pair in pairs if pair.pair_id in kept],
        [pair for pair in pairs if pair.pair_id not in kept],
    )
