"""A Gauss-Newton step on a batch that came apart: as `GaussianUpdate`, at the cost of its images' own problems.

With the rows A_b that only image b changes, and the rows S = [S_1 … S_B] of all,

    J C Jᵀ + N = [ diag_b(A_b C_b A_bᵀ + N_b)    column_b(A_b C_b S_bᵀ)  ]
                 [ row_b(S_b C_b A_bᵀ)           Σ_b S_b C_b S_bᵀ + N_s  ]

has an arrow's shape: its Cholesky factor has as few blocks, and no matrix between all equations is formed. Where the
prior alone has changed much since, the last step's factor serves as the preconditioner of conjugate gradients.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from leakage_audit.equations.base import Equations
from leakage_audit.equations.separable_jacobian import SeparableJacobian
from leakage_audit.priors import LocalGaussian
from leakage_audit.solvers.gaussian_update import JITTERS, cholesky
from leakage_audit.solvers.old_factor import solve_by_old_factor
from leakage_audit.solvers.options import SolverOptions


def fits_separably(equations: Equations, memory: float, largest_work: float) -> bool:
    """Whether the Jacobian of a batch that came apart, and what a step makes of it, may be formed.

    Args:
        equations: Smooth ones.
        memory: Bytes that they may take.
        largest_work: Numbers that the passes of one Jacobian may keep.
    """
    batch, k, n = equations.shape[0], equations.own_rows, math.prod(equations.shape)
    rows, pixels = k + sum(equations.sizes[1:]), math.prod(equations.shape[2:])
    if not k or len(equations.noise) > n:
        return False
    needed = 8 * (4 * rows * n + 2 * batch * k * rows + 12 * batch * pixels**2)
    return needed <= memory and rows * equations.memory_estimate <= largest_work


class ArrowFactor:
    """Cholesky factor of the matrix above.

    Args:
        jacobian: The rows.
        noise: Variance of each equation, `(m,)`.
        gaussians: The prior around each image.
        jitters: See `cholesky`.
    """

    def __init__(
        self,
        jacobian: SeparableJacobian,
        noise: Tensor,
        gaussians: Sequence[LocalGaussian],
        jitters: tuple[float, ...] = JITTERS,
    ) -> None:
        self._batch, self._k, _ = jacobian.own.shape
        own_noise, shared_noise = self._split(noise)
        tip = torch.diag(shared_noise)
        self._own, self._cross = list[Tensor](), list[Tensor]()
        for own, shared, n, gaussian in zip(jacobian.own, jacobian.shared, own_noise, gaussians, strict=True):
            half = gaussian.times_root(torch.cat([own, shared]))
            gram = half[: self._k] @ half[: self._k].T
            gram.diagonal().add_(n)
            lower = cholesky(gram, jitters)
            cross = half[: self._k] @ half[self._k :].T
            cross = torch.linalg.solve_triangular(lower, cross, upper=False)
            tip += half[self._k :] @ half[self._k :].T - cross.T @ cross
            self._own.append(lower)
            self._cross.append(cross)
        self._tip = cholesky(tip, jitters)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        size = self._batch * self._k
        return values[:size].reshape(self._batch, self._k), values[size:]

    def solve(self, right: Tensor) -> Tensor:
        """The inverse times `right (m,)`."""
        own, shared = self._split(right)
        tops = [_forward(lower, part) for lower, part in zip(self._own, own, strict=True)]
        down = sum((cross.T @ top for cross, top in zip(self._cross, tops, strict=True)), torch.zeros_like(shared))
        tip = torch.cholesky_solve((shared - down)[:, None], self._tip)[:, 0]
        parts = zip(self._own, self._cross, tops, strict=True)
        return torch.cat([*(_backward(lower, top - cross @ tip) for lower, cross, top in parts), tip])

    def known(self, image: int, own: Tensor, shared: Tensor) -> Tensor:
        """What the equations take off the variance of an image's entries, `(n,)`.

        Args:
            image: Which.
            own: Its rows times C_b, `(k, n)`.
            shared: The shared rows' part in it times C_b, `(s, n)`.
        """
        top = torch.linalg.solve_triangular(self._own[image], own, upper=False)
        rest = torch.linalg.solve_triangular(self._tip, shared - self._cross[image].T @ top, upper=False)
        return top.square().sum(0) + rest.square().sum(0)


class SeparableUpdate:
    """The linear-Gaussian model of a batch at its images, factored.

    Args:
        images: Where F was linearised, `(B·n,)`.
        r: F there, `(m,)`.
        jacobian: Its rows.
        noise: Variance of each equation, `(m,)`.
        gaussians: The prior around each image, of that image alone.
        last: The step before, whose factor may serve again.
        options: How precisely the system is solved by it.

    Attributes:
        origin: Where F was linearised.
        image: The most probable images, `(B·n,)`.
    """

    def __init__(
        self,
        images: Tensor,
        r: Tensor,
        jacobian: SeparableJacobian,
        noise: Tensor,
        gaussians: Sequence[LocalGaussian],
        last: "SeparableUpdate | None" = None,
        options: SolverOptions | None = None,
    ) -> None:
        options = options or SolverOptions()
        self.origin, self._jacobian, self._noise, self._gaussians = images, jacobian, noise, gaussians
        self._factor: ArrowFactor | None = None if last is None else last._factor
        self._stale = True
        mean = torch.cat([gaussian.mean for gaussian in gaussians])
        right = jacobian @ (images - mean) - r
        weights = None if self._factor is None else self._by_old_factor(right, self._factor, options)
        if weights is None:
            self._factor = None  # it goes before the next one comes
            self._factor, self._stale = ArrowFactor(jacobian, noise, gaussians, options.jitters), False
            weights = self._factor.solve(right)
        self.image = mean + self._pictures(weights)

    def _pictures(self, weights: Tensor) -> Tensor:
        """C Jᵀ times weights, `(B·n,)`."""
        parts = zip(self._gaussians, self._jacobian.transposed(weights), strict=True)
        return torch.cat([gaussian.covariance_times(part) for gaussian, part in parts])

    def _by_old_factor(self, right: Tensor, factor: ArrowFactor, options: SolverOptions) -> Tensor | None:
        """(J C Jᵀ + N)⁻¹ `right` by conjugate gradients that an old factor preconditions; None if it is too far."""

        def times(weights: Tensor) -> Tensor:
            return self._jacobian @ self._pictures(weights) + self._noise * weights

        return solve_by_old_factor(times, right, factor.solve, options.rough, options.products_by_old_factor)

    def std(self) -> Tensor:
        """Standard deviation of each entry of the images given the equations, `(B·n,)`."""
        if self._factor is None or self._stale:
            self._factor = None
            self._factor = ArrowFactor(self._jacobian, self._noise, self._gaussians)
        factor, found = self._factor, []
        for b, gaussian in enumerate(self._gaussians):
            known = factor.known(
                b, gaussian.covariance(self._jacobian.own[b]), gaussian.covariance(self._jacobian.shared[b])
            )
            found.append(gaussian.variance - known)
        return torch.cat(found).clamp_min(0).sqrt()


def _forward(lower: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower, right[:, None], upper=False)[:, 0]


def _backward(lower: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower.T, right[:, None], upper=True)[:, 0]
