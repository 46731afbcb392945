"""Muon: updates of orthogonal matrices, from which a small model learns in fewer steps than from Adam's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic that brings singular values to about one, the fastest at zero (Jordan, "Muon", 2024)."""
ITERATIONS: Final = 5
MOMENTUM: Final = 0.95
WEIGHT_DECAY: Final = 0.05


class Muon:
    """Nesterov's momentum, then the nearest orthogonal matrix as the update, for matrices of hidden layers.

    Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024), with decoupled weight decay and each
    matrix's rate scaled by ``0.2 * sqrt(longer side)``, so that rates are of Adam's size (Liu et al., "Muon is
    scalable for LLM training", 2025). As `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, which computes in
    bfloat16 on every processor, many times slower where instructions for that are missing. Here all matrices of
    one shape are computed at once, in fp32 unless told otherwise.
    """

    def __init__(self, matrices: Iterable[Tensor], *, bf16: bool = False) -> None:
        """``matrices`` are parameters of two dimensions; with ``bf16`` their products are computed in bfloat16."""
        import torch

        self._dtype = torch.bfloat16 if bf16 else torch.float32
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        for matrix in matrices:
            rows, columns = matrix.shape
            shapes.setdefault((rows, columns), []).append(matrix)
        self._stacks = [
            (shape, group, torch.zeros(len(group), *shape)) for shape, group in sorted(shapes.items())
        ]

    def step(self, rate: float) -> None:
        """One update from the gradients."""
        import torch

        with torch.no_grad():
            for shape, group, momentum in self._stacks:
                gradients = torch.stack([_gradient(matrix) for matrix in group])
                momentum.lerp_(gradients, 1 - MOMENTUM)
                updates = orthogonal(gradients.lerp_(momentum, MOMENTUM).to(self._dtype))
                scaled = rate * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(group, updates, strict=True):
                    matrix.mul_(1 - rate * WEIGHT_DECAY).sub_(update, alpha=scaled)


def orthogonal(matrices: Tensor) -> Tensor:
    """Each of ``[matrices, rows, columns]`` with most singular values between 0.7 and 1.2, by Newton and Schulz."""
    import torch

    rows, columns = matrices.shape[1:]
    # Products of the shorter side with itself are the cheaper ones.
    found = matrices.mT if rows > columns else matrices
    # A gradient of zeros stays zero instead of becoming no number.
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if rows > columns else found


def _gradient(matrix: Tensor) -> Tensor:
    if matrix.grad is None:
        raise ValueError("a matrix took no part in the loss")
    return matrix.grad
