"""The linear problem under a variation without a Jacobian, in a generalized Krylov subspace.

Majorise-minimise with every direction kept (MM-GKS; Huang, Lanza, Morigi, Reichel & Sgallari 2017): at the present
prior P the best picture in the span of the directions V solves the small system

    (VᵀAᵀAV + VᵀPV) c = VᵀAᵀ A(x* − ½),

and the next direction is what it leaves of the normal equations, preconditioned BY P ALONE: conjugate gradients with
all of their directions remembered, so that asking the prior anew costs no product with A. With P⁻¹ what the equations
leave open is solved at once, and each direction adds one that they determine.

Since `AᵀA + P ≥ P`, the error of a picture in the prior's norm is at most the rest of the normal equations in the norm
of P⁻¹: the evidence that a system is solved to the end.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.measures.limit.dense import Solved
from leakage_audit.measures.limit.linearized_gradient import LinearizedGradient
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.priors import GREY, LocalGaussian, Prior
from leakage_audit.runtime import Budget


class Subspace:
    """The directions found so far, with what A and P make of them.

    Args:
        linear: A.
        most: Most directions to keep.

    Attributes:
        size: Number of directions.
    """

    def __init__(self, linear: LinearizedGradient, truth: Tensor, most: int) -> None:
        self._linear, self._most, self.size = linear, most, 0
        self._numerics = linear.options.numerics
        self.target = linear.push(truth - GREY)
        self._v, self._av, self._pv = (truth.new_empty(0, k) for k in (len(truth), linear.rows, len(truth)))
        self._gram, self._stiff = truth.new_empty(0, 0), truth.new_empty(0, 0)
        self.c = truth.new_empty(0)
        self._precision: Callable[[Tensor], Tensor] | None = None

    def weigh(self, precision: Callable[[Tensor], Tensor]) -> None:
        """Take another prior P, given as its product with a vector."""
        self._precision = precision
        for k in range(self.size):
            self._pv[k] = precision(self._v[k])
        self._stiff = self._v[: self.size] @ self._pv[: self.size].T
        self._solve()

    def add(self, direction: Tensor) -> None:
        """One more direction `(n,)`: one product with A."""
        assert self._precision is not None  # `weigh` comes first
        if self.size == self._most:
            self._start_over()
        v = direction / direction.norm()
        for _ in range(2):  # twice is enough (Parlett 1980)
            v = v - (self._v[: self.size] @ v) @ self._v[: self.size]
            v = v / v.norm()
        if self.size == len(self._v):
            room = min(self.size + self._numerics.room, self._most)
            self._v, self._av, self._pv = (
                torch.cat([rows, rows.new_empty(room - self.size, rows.shape[1])])
                for rows in (self._v, self._av, self._pv)
            )
        k, self.size = self.size, self.size + 1
        self._v[k], self._av[k], self._pv[k] = v, self._linear.push(v), self._precision(v)
        self._gram = _bordered(self._gram, self._av[: k + 1] @ self._av[k])
        self._stiff = _bordered(self._stiff, self._v[: k + 1] @ self._pv[k])
        self._solve()

    def _start_over(self) -> None:
        """Keep the present picture as the only direction."""
        size = self.image.norm()
        for rows in (self._v, self._av, self._pv):
            rows[0] = self.c @ rows[: self.size] / size
        self.size, self.c = 1, size[None].clone()
        self._gram = (self._av[0] @ self._av[0]).reshape(1, 1)
        self._stiff = (self._v[0] @ self._pv[0]).reshape(1, 1)

    def _solve(self) -> None:
        """The best picture in the span, refined since the small Gram matrix loses half the digits."""
        if not self.size:
            return
        av = self._av[: self.size]
        matrix = self._gram + self._stiff
        scale = matrix.diagonal().rsqrt()
        values, vectors = torch.linalg.eigh(scale[:, None] * matrix * scale)
        values = values.clamp_min(self._numerics.flat * float(values[-1]))
        self.c = torch.zeros(self.size).to(av)
        for _ in range(1 + self._numerics.corrections):
            rest = av @ (self.target - self.c @ av) - self._stiff @ self.c
            self.c = self.c + scale * (vectors @ (vectors.T @ (scale * rest) / values))

    @property
    def image(self) -> Tensor:
        """The best picture in the span, minus grey, `(n,)`."""
        return self.c @ self._v[: self.size]

    def rest(self) -> Tensor:
        """What it leaves of the normal equations, `(n,)`: one product with Aᵀ."""
        return self._linear.pull(self.target - self.c @ self._av[: self.size]) - self.c @ self._pv[: self.size]

    @property
    def energy(self) -> float:
        """The picture's square in the prior's norm."""
        return float(self.c @ self._stiff @ self.c)


def solve_free(
    linear: LinearizedGradient, truth: Tensor, prior: Prior, options: LimitOptions, budget: Budget
) -> Solved:
    """As `dense.solve_dense`, by products with J and Jᵀ only.

    Args:
        linear: J.
        truth: x*, `(n,)`.
        prior: What images are like; its mean is grey everywhere.
        options: Of the limit.
        budget: Time limit and progress report.
    """
    memory = options.max_memory_gb * 1e9 / 2
    most = int(max(memory / 8 / (linear.rows + 2 * linear.columns), options.numerics.least_directions))
    space, image = Subspace(linear, truth, most), torch.full_like(truth, GREY)
    error, ended, solved = math.nan, f"{options.products} products were not enough", False
    inside = options.products_per_reweighting
    for product in budget.steps(options.products, "limit: products"):
        if inside >= options.products_per_reweighting or error <= options.tolerance:
            new = GREY + space.image
            if error <= options.tolerance and rms(new - image) < options.settled:
                solved, ended = True, f"settled after {product} products"
                break
            image, inside = new, 0
            gaussian = prior.local_gaussian(image.reshape(linear.shape))
            space.weigh(gaussian.precision)
            precondition = _preconditioner(gaussian, memory)
        rest = space.rest()
        direction = precondition(rest)
        error = _ratio(float(rest @ direction), space.energy)
        if error > options.tolerance:
            space.add(direction)
        inside += 1
    if not solved and budget.stopped:
        ended = "the time was up"
    return Solved(GREY + space.image, solved, error, ended)


def _preconditioner(gaussian: LocalGaussian, memory: float) -> Callable[[Tensor], Tensor]:
    """P⁻¹ where its matrices between pixels fit, otherwise the prior's own approximation of it."""
    image = gaussian.image
    if 8 * 6 * len(image) * math.prod(image.shape[2:]) ** 2 <= memory:
        return lambda v: gaussian.covariance(v[None])[0]
    return gaussian.preconditioner(0.0)


def _ratio(rest: float, energy: float) -> float:
    """Of two squared norms; nothing left of nothing is solved."""
    if rest <= 0:
        return 0.0
    return math.sqrt(rest / energy) if energy > 0 else math.inf


def _bordered(matrix: Tensor, last: Tensor) -> Tensor:
    """A symmetric matrix with one more row and column."""
    k = len(last) - 1
    out = last.new_empty(k + 1, k + 1)
    out[:k, :k], out[k], out[:, k] = matrix, last, last
    return out
