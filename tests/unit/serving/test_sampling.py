"""How the embedded server draws tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch  # noqa: TID253  # the subject is tensors, and tests may take their time

from sentinel.embedded.model_server.sampling import Row, Sampling, choose, describe

LOGITS = torch.tensor([0.0, 1.0, 2.0, 3.0])
SHARES = torch.softmax(LOGITS, dim=-1).tolist()


def draws(count: int, **sampling: Any) -> Counter[int]:
    generator = torch.Generator().manual_seed(5)
    row = Row(Sampling(**sampling), generator)
    return Counter(choose(LOGITS[None], [row])[0] for _ in range(count))


def test_temperature_zero_takes_the_likeliest() -> None:
    rows = [Row(Sampling(temperature=0), None), Row(Sampling(temperature=0), torch.Generator())]
    assert choose(torch.stack([LOGITS, -LOGITS]), rows) == [3, 0]


def test_draws_follow_the_probabilities() -> None:
    found = draws(4000, temperature=1.0)
    for token, share in enumerate(SHARES):
        assert found[token] / 4000 == pytest.approx(share, abs=0.03)
    hotter = draws(4000, temperature=10.0)
    assert hotter[0] > 3 * found[0]


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert set(draws(300, top_k=2)) == {2, 3}
    assert set(draws(300, top_k=1)) == {3}
    # The likeliest token has 0.64: one is enough for 0.6, two are needed for 0.7.
    assert set(draws(300, top_p=0.6)) == {3}
    assert set(draws(300, top_p=0.7)) == {2, 3}
    assert set(draws(2000, top_p=1.0, top_k=0)) == {0, 1, 2, 3}


def test_a_row_s_draws_do_not_depend_on_its_neighbours() -> None:
    def row(seed: int) -> Row:
        return Row(Sampling(), torch.Generator().manual_seed(seed))

    alone = row(3)
    first = [choose(LOGITS[None], [alone])[0] for _ in range(20)]
    mine, other = row(3), row(4)
    second = [choose(torch.stack([LOGITS, LOGITS]), [other, mine])[1] for _ in range(20)]
    assert first == second


def test_log_probabilities_are_told_where_they_were_asked_for() -> None:
    told = describe(torch.stack([LOGITS] * 3), [3, 0, 1], [None, 0, 2])
    assert told[0] is None
    assert told[1] is not None
    assert told[1].top == ()
    expected = torch.log_softmax(LOGITS, dim=-1).tolist()
    assert told[1].logprob == pytest.approx(expected[0])
    assert told[2] is not None
    assert told[2].logprob == pytest.approx(expected[1])
    assert [token for token, _ in told[2].top] == [3, 2]
    assert [value for _, value in told[2].top] == pytest.approx([expected[3], expected[2]])
    assert describe(LOGITS[None], [0], [99])[0] is not None
