"""Muon beside torch's own, which computes in bfloat16."""

from __future__ import annotations

import pytest

from trainer.tiny.muon import WEIGHT_DECAY, Muon, orthogonal

SHAPES = ((32, 32), (32, 96), (96, 32), (32, 96), (1, 16))


@pytest.mark.parametrize("bf16", [False, True])
def test_updates_are_those_of_torch(bf16: bool) -> None:
    import torch

    generator = torch.Generator().manual_seed(5)
    ours = [torch.randn(shape, generator=generator) for shape in SHAPES]
    theirs = [one.clone() for one in ours]
    muon = Muon(ours, bf16=bf16)
    reference = torch.optim.Muon(
        [torch.nn.Parameter(one) for one in theirs],
        lr=0.02,
        momentum=0.95,
        weight_decay=WEIGHT_DECAY,
        adjust_lr_fn="match_rms_adamw",
    )
    parameters = reference.param_groups[0]["params"]
    for _ in range(4):
        before = [one.clone() for one in ours]
        for own, other in zip(ours, parameters, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        muon.step(0.02)
        reference.step()
        for own, other, start in zip(ours, parameters, before, strict=True):
            assert (own - other).norm() <= 0.05 * (own - start).norm()
            # The next step is compared from one place, so that bfloat16's errors do not add up.
            other.data.copy_(own)


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 32, 96), (2, 96, 32)])
def test_most_singular_values_come_to_about_one(shape: tuple[int, int, int]) -> None:
    import torch

    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    before, after = torch.linalg.svdvals(matrices), torch.linalg.svdvals(orthogonal(matrices))
    assert (before.max() / before.min()) > 2
    assert after.max() < 1.25
    assert ((after > 0.65).double().mean()) > 0.9


def test_gradients_of_zero_only_decay() -> None:
    import torch

    matrix = torch.ones(8, 4)
    matrix.grad = torch.zeros(8, 4)
    Muon([matrix]).step(0.1)
    assert torch.allclose(matrix, torch.full((8, 4), 1 - 0.1 * WEIGHT_DECAY))


def test_a_matrix_without_a_gradient_is_an_error() -> None:
    import torch

    with pytest.raises(ValueError, match="took no part"):
        Muon([torch.ones(4, 4)]).step(0.1)
