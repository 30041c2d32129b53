"""Equations `A (x − x*) = ξ`, ξ standard normal, under a Gaussian prior, factored: in the equations or the unknowns.

The shared gradient's noise is drawn as zero, so that x̂ errs only by what the equations leave open.

The prior is asked anew a dozen times, and each time little of it changes: an old factor is a preconditioner with which
conjugate gradients need a handful of products, so that a system is factored anew only where they need more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from leakage_audit.measures.limit.linearized_gradient import Block
from leakage_audit.measures.limit.options import NumericsOptions
from leakage_audit.priors import LocalGaussian
from leakage_audit.solvers.gaussian_update import JITTERS, cholesky, solve_cholesky
from leakage_audit.solvers.old_factor import solve_by_old_factor


class DualSystem:
    """By `A C Aᵀ + I = Σ_i L_i (R_i C_i R_iᵀ) L_iᵀ + I`, A side by side of blocks `L_i R_i`.

    Args:
        blocks: Of A.
        truths: x* of each block's images, `(k,)`.
        numerics: How precisely the system is solved by an old factor.
    """

    def __init__(self, blocks: Sequence[Block], truths: Sequence[Tensor], numerics: NumericsOptions) -> None:
        self._blocks, self._truths, self._numerics = blocks, truths, numerics
        self._gaussians: Sequence[LocalGaussian] = ()
        self._lower: Tensor | None = None
        self._stale = True
        self._weights = torch.zeros(blocks[0].height).to(blocks[0].rows)
        self._right = self._weights

    def solve(self, gaussians: Sequence[LocalGaussian]) -> Tensor:
        """x̂, `(n,)`, under the prior of each block's images, as precisely as another reweighting needs it."""
        self._gaussians = gaussians
        moves = [truth - gaussian.mean for gaussian, truth in zip(gaussians, self._truths, strict=True)]
        self._right = self._lift([b.rows @ move for b, move in zip(self._blocks, moves, strict=True)])
        found = self._by_old_factor()
        self._stale = found is not None
        self._weights = solve_cholesky(self._factor(), self._right) if found is None else found
        return self._image

    def refined(self) -> Tensor:
        """The same to the end, by a factor of the system itself."""
        if self._stale:
            self._weights = solve_cholesky(self._factor(), self._right)
        return self._image

    def _by_old_factor(self) -> Tensor | None:
        lower, numerics = self._lower, self._numerics
        if lower is None:
            return None
        rough, products = numerics.rough, numerics.products_by_old_factor
        return solve_by_old_factor(
            self._times, self._right, lambda v: solve_cholesky(lower, v), rough, products, self._weights
        )

    @property
    def _image(self) -> Tensor:
        means = torch.cat([gaussian.mean for gaussian in self._gaussians])
        return means + torch.cat(self._pictures(self._weights))

    def _pictures(self, weights: Tensor) -> list[Tensor]:
        """`C_i A_iᵀ` times weights `(m,)`."""
        return [
            gaussian.covariance_times(block.rows.T @ block.lower(weights[:, None])[:, 0])
            for block, gaussian in zip(self._blocks, self._gaussians, strict=True)
        ]

    def _lift(self, values: Sequence[Tensor]) -> Tensor:
        """`Σ L_i v_i`, `(m,)`."""
        return sum(
            (block.lift(v[:, None])[:, 0] for block, v in zip(self._blocks, values, strict=True)), torch.zeros(())
        )

    def _times(self, weights: Tensor) -> Tensor:
        """The system times weights `(m,)`."""
        pictures = self._pictures(weights)
        return weights + self._lift([b.rows @ p for b, p in zip(self._blocks, pictures, strict=True)])

    def _factor(self) -> Tensor:
        """The lower Cholesky factor `(m, m)`."""
        self._lower = None  # it goes before the next one comes
        size, like = self._blocks[0].height, self._blocks[0].rows
        system = torch.eye(size, dtype=like.dtype, device=like.device)
        for block, gaussian in zip(self._blocks, self._gaussians, strict=True):
            half = gaussian.times_root(block.rows)
            system += block.lift(block.lift(half @ half.T).T.contiguous())
        self._lower, self._stale = cholesky(system, (0.0, *JITTERS)), False
        return self._lower

    def variances(self) -> tuple[Tensor, Tensor]:
        """Posterior variance of each entry under the last prior, and the share that the noise brings in, `(n,)` each.

        With K the matrix from noise to picture, the latter is the diagonal of K Kᵀ.
        """
        lower = self._factor() if self._stale or self._lower is None else self._lower
        posterior, by_noise = [], []
        for block, gaussian in zip(self._blocks, self._gaussians, strict=True):
            half = torch.linalg.solve_triangular(lower, block.lift(gaussian.covariance(block.rows)), upper=False)
            posterior.append(gaussian.variance - half.square().sum(0))
            by_noise.append(torch.linalg.solve_triangular(lower.T, half, upper=True).square().sum(0))
        return torch.cat(posterior).clamp_min(0), torch.cat(by_noise).clamp_min(0)


class PrimalSystem:
    """By `Aᵀ A + C⁻¹`.

    Args:
        jacobian: A, `(m, n)`.
        gram: `Aᵀ A`.
        truth: x*, `(n,)`.
        numerics: How often a solution is corrected by what it leaves of the normal equations, and how precisely the
            system is solved by an old factor.
    """

    def __init__(self, jacobian: Tensor, gram: Tensor, truth: Tensor, numerics: NumericsOptions) -> None:
        self._jacobian, self._gram, self._truth, self._numerics = jacobian, gram, truth, numerics
        self._lower = self._image = torch.empty(0)

    def solve(self, gaussians: Sequence[LocalGaussian]) -> Tensor:
        """x̂, `(n,)`, under the prior, which is one of all images, to the end."""
        (gaussian,) = gaussians
        target = self._jacobian @ (self._truth - gaussian.mean)
        self._lower = torch.empty(0)  # it goes before the next one comes
        self._lower = cholesky(self._gram + gaussian.precision_matrix(), (0.0, *JITTERS))
        move = solve_cholesky(self._lower, self._jacobian.T @ target)
        for _ in range(self._numerics.corrections):
            rest = self._jacobian.T @ (target - self._jacobian @ move) - gaussian.precision(move)
            move += solve_cholesky(self._lower, rest)
        self._image = gaussian.mean + move
        return self._image

    def refined(self) -> Tensor:
        """The same."""
        return self._image

    def variances(self) -> tuple[Tensor, Tensor]:
        """As those of `DualSystem`."""
        inverse = torch.cholesky_inverse(self._lower)
        return inverse.diagonal().clamp_min(0), (inverse @ self._gram * inverse).sum(1).clamp_min(0)
