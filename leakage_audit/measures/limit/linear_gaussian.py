"""Equations `A (x − x*) = ξ`, ξ standard normal, under a Gaussian prior, factored: in the equations or the unknowns.

The shared gradient's noise is drawn as zero, so that x̂ errs only by what the equations leave open.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.measures.limit.linearized_gradient import Block
from leakage_audit.priors import LocalGaussian
from leakage_audit.solvers.gaussian_update import JITTERS, cholesky, solve_cholesky


class DualSystem:
    """By `A C Aᵀ + I = Σ_i L_i (R_i C_i R_iᵀ) L_iᵀ + I`, A side by side of blocks `L_i R_i`.

    Args:
        blocks: Of A.
        gaussians: The prior of each block's images.
        truths: x* of each, `(k,)`.

    Attributes:
        image: x̂, `(n,)`.
    """

    def __init__(self, blocks: Sequence[Block], gaussians: Sequence[LocalGaussian], truths: Sequence[Tensor]) -> None:
        self._blocks, self._gaussians = blocks, gaussians
        size, like = blocks[0].height, blocks[0].rows
        system = torch.eye(size, dtype=like.dtype, device=like.device)
        right = torch.zeros(size, 1, dtype=like.dtype, device=like.device)
        for block, gaussian, truth in zip(blocks, gaussians, truths, strict=True):
            half = gaussian.times_root(block.rows)
            system += block.lift(block.lift(half @ half.T).T)
            right += block.lift((block.rows @ (truth - gaussian.mean))[:, None])
        self._lower = cholesky(system, (0.0, *JITTERS))
        weights = torch.cholesky_solve(right, self._lower)
        self.image = torch.cat(
            [
                gaussian.mean + gaussian.covariance_times(block.rows.T @ block.lower(weights)[:, 0])
                for block, gaussian in zip(blocks, gaussians, strict=True)
            ]
        )

    def variances(self) -> tuple[Tensor, Tensor]:
        """Posterior variance of each entry, and the share of it that the noise brings in, `(n,)` each.

        With K the matrix from noise to picture, the latter is the diagonal of K Kᵀ.
        """
        posterior, by_noise = [], []
        for block, gaussian in zip(self._blocks, self._gaussians, strict=True):
            half = torch.linalg.solve_triangular(self._lower, block.lift(gaussian.covariance(block.rows)), upper=False)
            posterior.append(gaussian.variance - half.square().sum(0))
            by_noise.append(torch.linalg.solve_triangular(self._lower.T, half, upper=True).square().sum(0))
        return torch.cat(posterior).clamp_min(0), torch.cat(by_noise).clamp_min(0)


class PrimalSystem:
    """By `Aᵀ A + C⁻¹`.

    Args:
        jacobian: A, `(m, n)`.
        gram: `Aᵀ A`.
        gaussian: The prior.
        truth: x*, `(n,)`.
        corrections: Of the solution, by what it leaves of the normal equations.

    Attributes:
        image: x̂, `(n,)`.
    """

    def __init__(
        self, jacobian: Tensor, gram: Tensor, gaussian: LocalGaussian, truth: Tensor, corrections: int
    ) -> None:
        self._gram = gram
        precision = gaussian.precision_matrix()
        target = jacobian @ (truth - gaussian.mean)
        self._lower = cholesky(gram + precision, (0.0, *JITTERS))
        move = solve_cholesky(self._lower, jacobian.T @ target)
        for _ in range(corrections):
            move += solve_cholesky(self._lower, jacobian.T @ (target - jacobian @ move) - gaussian.precision(move))
        self.image = gaussian.mean + move

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.cholesky_inverse(self._lower)

    def variances(self) -> tuple[Tensor, Tensor]:
        """As those of `DualSystem`."""
        return self._inverse.diagonal().clamp_min(0), (self._inverse @ self._gram * self._inverse).sum(1).clamp_min(0)
