"""Equal shares, and no client above its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset.capping import client_limit, equal_shares

SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 200), max_size=8)


@given(SIZES, st.integers(0, 400))
def test_shares_use_every_place_and_are_as_equal_as_the_sizes_allow(
    sizes: dict[str, int], places: int
) -> None:
    given_places = equal_shares(sizes, places)
    assert sum(given_places.values()) == min(places, sum(sizes.values()))
    for name, number in given_places.items():
        assert 0 <= number <= sizes[name]
        if number < sizes[name]:  # cut short: then nobody has more than one place more
            assert number >= max(given_places.values()) - len(sizes)


@given(SIZES.filter(lambda sizes: len(sizes) > 1), st.floats(0.05, 1.0), st.integers(1, 60))
def test_no_client_has_more_than_its_share(sizes: dict[str, int], share: float, least: int) -> None:
    limit = client_limit(sizes, share, least)
    kept = [min(size, limit) for size in sizes.values()]
    allowed = max(share, 1 / len(sizes)) * sum(kept)
    assert max(kept) <= max(least, allowed + 1e-6)
    higher = [min(size, limit + 1) for size in sizes.values()]
    if limit < max(sizes.values()):  # and no more is taken away than that needs
        assert max(higher) > max(share, 1 / len(sizes)) * sum(higher)


def test_a_client_alone_brings_all_and_a_flood_is_cut() -> None:
    assert client_limit({"a": 500}, 0.5, 10) == 500
    assert client_limit({"flood": 5000, "b": 60, "c": 40}, 0.5, 10) == 100
    assert client_limit({"flood": 5000, "b": 3}, 0.5, 50) == 50
    assert client_limit({}, 0.5, 50) == 0
