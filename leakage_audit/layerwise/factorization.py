"""Rank, condition and pseudo-inverse of a layer system, from a factored Gram matrix.

With G the smaller of uᵀu and uuᵀ, `u⁺ = G⁺uᵀ = uᵀ(uuᵀ)⁺` needs no singular value decomposition. The layer systems
allow it: their non-zero singular values lie above 1e-2 of the largest and the zero ones at rounding, a gap that
squaring leaves wide open (docs/method.md, sections 3.7 to 3.9).
"""

from functools import cached_property

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from leakage_audit.layerwise.factor_cost import (
    Cost,
    block_cholesky_cost,
    deflated_cholesky_cost,
    pivoted_cholesky_cost,
    product_cost,
)
from leakage_audit.layerwise.gram_factors import (
    DEFAULT,
    BlockTridiagonalCholesky,
    DeflatedCholesky,
    FactorOptions,
    GramFactor,
    PivotedCholesky,
)
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.runtime import Budget

TOLERANCE = 1e-5  # singular values below this share of the largest count as zero; float32 gradients leave 1e-7


def tolerance_for(dtype: torch.dtype, units: float = 10.0, least: float = 1e-7) -> float:
    """Share of the largest singular value below which nothing is told from rounding, given the gradients' type.

    Args:
        dtype: The gradients'.
        units: Of its rounding.
        least: What squaring in G tells from zero, however fine the type.

    >>> tolerance_for(torch.float32) == 10 * 2**-23, tolerance_for(torch.float64)
    (True, 1e-07)
    """
    return max(least, units * torch.finfo(dtype).eps)


class Factor:
    """A layer system factored once, to be ranked and solved.

    Its two blocks, weight and gradient constraints, are first brought to equal size: gradients shrink by orders of
    magnitude as training goes on, and that alone changes no rank.

    Args:
        system: The layer's `u x = v`.
        tolerance: Singular values below this share of the largest count as zero.
        options: How it is factored.
        budget: Limits of time and memory; none by default. No factoring is begun that would not fit.

    Attributes:
        rank: rank(u).
        way: How it was found (see `factorings`).

    Raises:
        ValueError: If the system holds values that are not finite.
        OutOfMemory: If its factors would not fit in memory.
        OutOfTime: If they would not be done in time.
    """

    def __init__(
        self,
        system: LayerSystem,
        tolerance: float = TOLERANCE,
        options: FactorOptions = DEFAULT,
        budget: Budget | None = None,
    ) -> None:
        self.system, self._options, self._budget = system, options, budget or Budget()
        dz, w = system.dz.double(), system.weight.double()
        if not (torch.isfinite(dz).all() and torch.isfinite(w).all()):
            raise ValueError(f"the system of {system.layer.name} holds values that are not finite")
        size_w, size_k = (
            w.square().sum() / system.layer.out_shape[0],
            dz.square().sum() / len(dz[0]),
        )  # mean square of a row, up to borders
        self._weighting = float((size_w / size_k).sqrt()) if size_k > 0 and size_w > 0 else 1.0
        self._tall = system.equations >= system.n
        self._factoring = self._factored(tolerance)
        self.rank, self.way = self._factoring.rank, self._factoring.way

    def _factored(self, tolerance: float) -> GramFactor:
        self._require((block_cholesky_cost if self._tall else deflated_cholesky_cost)(self.system))
        cut = tolerance**2 * self._largest
        try:
            if self._tall:
                return BlockTridiagonalCholesky(self.system, self._weighting, cut)
            return DeflatedCholesky(self.system, self._weighting, cut, self._largest, self._options)
        except np.linalg.LinAlgError:  # not the rank that shapes predict, or not for the reason that is cheap to check
            self._require(pivoted_cholesky_cost(self.system))
            return PivotedCholesky(self.system, self._weighting, cut, self._options)

    def _require(self, cost: Cost) -> None:
        self._budget.require(f"the factor of {self.system.layer.name}'s system", cost.memory, cost.flops)

    @cached_property
    def _largest(self) -> float:
        """Largest eigenvalue of G, to a few per cent."""
        cost = product_cost(self.system)
        self._budget.require(f"a product with {self.system.layer.name}'s system", cost.memory, cost.flops)
        if self.system.n < 3:
            return float(np.linalg.norm(self.system.matrix(), 2) ** 2)
        start = np.random.default_rng(0).standard_normal(self.system.n)
        if not self._gram(start).any():
            return 0.0
        shape = self.system.n, self.system.n
        operator = LinearOperator(shape, matvec=self._gram, dtype=float)
        return float(eigsh(operator, k=1, v0=start, tol=self._options.extremes, return_eigenvectors=False)[0])

    def _gram(self, x: np.ndarray) -> np.ndarray:
        """`uᵀu x` with the blocks at equal size; asked a few dozen times in a row."""
        self._budget.check()
        like = self.system.dz.double()
        y = self._weights(like) ** 2 * self.system.apply(torch.from_numpy(x.reshape(-1)).to(like))
        return self.system.adjoint(y).cpu().numpy()

    def _weights(self, like: Tensor) -> Tensor:
        weights = torch.ones(self.system.equations, dtype=like.dtype, device=like.device)
        weights[self.system.z.numel() :] = self._weighting
        return weights

    @property
    def gap(self) -> float | None:
        """Smallest singular value that counts over the largest that does not; None if all count."""
        dropped = self._factoring.dropped
        if dropped is None or not self.rank:
            return None
        rounding = np.finfo(float).eps * self._largest**0.5
        return self._smallest**0.5 / max(dropped, rounding)

    @cached_property
    def condition(self) -> float:
        """Smallest non-zero over largest singular value of u (its blocks at equal size); 0 if u is zero."""
        if not self.rank:
            return 0.0
        return float((self._smallest / self._largest) ** 0.5)

    @cached_property
    def _smallest(self) -> float:
        """Smallest non-zero eigenvalue of G, to a few per mille."""
        size = self.system.n if self._tall else self.system.equations
        if size < self._options.small:
            weights = self._weights(self.system.dz.double()).cpu().numpy()
            values = np.linalg.svd(weights[:, None] * self.system.matrix(), compute_uv=False)
            return float(values[self.rank - 1] ** 2)
        inverse = LinearOperator((size, size), matvec=self._solve, dtype=float)
        start = self._factoring.solve(np.random.default_rng(0).standard_normal(size))
        return 1 / float(eigsh(inverse, k=1, v0=start, tol=self._options.extremes, return_eigenvectors=False)[0])

    def _solve(self, y: np.ndarray) -> np.ndarray:
        """About `G⁺ y`."""
        self._budget.check()
        return self._factoring.solve(y)

    def pseudo_inverse(self, v: Tensor) -> Tensor:
        """`u⁺ v`, `(n,)`: the shortest of the least-squares solutions (its blocks at equal size)."""
        x, rest, last = torch.zeros(self.system.n).to(v), v, float("inf")
        for _ in range(self._options.rounds):
            step = self._shortest(rest)
            if not float(step.norm()) < last / 2:
                break
            x, last = x + step, float(step.norm())
            rest = v - self.system.apply(x)
        return x

    def _shortest(self, v: Tensor) -> Tensor:
        """`u⁺ v` to the accuracy of one solve with G."""
        weights = self._weights(v)
        if self._tall:
            return self._inverse_gram(self.system.adjoint(weights**2 * v))
        return self.system.adjoint(weights * self._inverse_gram(weights * v))

    def project(self, x: Tensor) -> Tensor:
        """`(I − u⁺u) x`, the part of x `(n,)` that the system says nothing about."""
        return x - self.pseudo_inverse(self.system.apply(x))

    def _inverse_gram(self, y: Tensor) -> Tensor:
        """`G⁺ y`."""
        return torch.from_numpy(self._solve(y.double().cpu().numpy())).to(y)
