"""Rank and pseudo-inverse of a layer system from its smaller Gram matrix.

The Gram matrix G (uᵀu if there are at least as many equations as unknowns, else uuᵀ) is factored by Cholesky with
pivoting, `Pᵀ G P ≈ L Lᵀ` with L of `rank` columns, at a third of n³ operations. For the layer systems this reads the
rank safely: their non-zero singular values lie above 1e-2 of the largest and the zero ones at rounding (METHOD,
section 3), a gap that squaring leaves wide open. The pseudo-inverse follows without a singular value decomposition:
`u⁺ = G⁺uᵀ = uᵀ(uuᵀ)⁺` with `G⁺ = P L (LᵀL)⁻² Lᵀ Pᵀ`.
"""

from functools import cached_property

import numpy as np
import scipy.linalg
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from leakage_audit.system import LayerSystem

TOLERANCE = 1e-5  # singular values below this share of the largest count as zero; float32 gradients leave 1e-7


def gram_matrix(system: LayerSystem, weighting: float) -> np.ndarray:
    """The smaller of uᵀu and uuᵀ, with the gradient constraints multiplied by `weighting`.

    Uses `K = ⊕_groups I ⊗ K₀`: only products of the small block K₀ are ever formed.
    """
    w, (c_out, c_in, *_) = system.weight_matrix(), system.weight.shape
    pixels, groups = system.n // system.layer.in_shape[0], system.layer.groups
    tall = system.equations >= system.n
    size, z = min(system.n, system.equations), w.shape[0]
    gram = np.zeros((size, size))
    gram[: w.shape[tall], : w.shape[tall]] = (w.T @ w if tall else w @ w.T).toarray()
    if system.gradient is None:
        return gram
    rows = z + np.arange(system.weight.numel()).reshape(groups, c_out // groups, c_in, -1)
    columns = w.tocsc()
    for group in range(groups):
        block = weighting * system.gradient_block(group)
        square = block.T @ block if tall else block @ block.T
        for c in range(c_in):
            channel = slice((group * c_in + c) * pixels, (group * c_in + c + 1) * pixels)
            if tall:
                gram[channel, channel] += square
            else:
                own = rows[group, :, c].reshape(-1)
                gram[np.ix_(own, own)] = square
                gram[:z, own] = columns[:, channel] @ block.T
                gram[own, :z] = gram[:z, own].T
    return gram


class Factor:
    """A layer system factored once, to be ranked and solved.

    Its two blocks, weight and gradient constraints, are first brought to equal size: gradients shrink by orders of
    magnitude as training goes on, and that alone changes no rank.

    Args:
        system: The layer's `u x = v`.
        tolerance: Singular values below this share of the largest count as zero.

    Raises:
        ValueError: If the system holds values that are not finite.
    """

    def __init__(self, system: LayerSystem, tolerance: float = TOLERANCE) -> None:
        self.system = system
        dz, w = system.dz.double(), system.weight.double()
        size_w, size_k = w.square().sum() / len(w), dz.square().sum() / len(w)  # mean square of a row, up to borders
        self._weighting = float((size_w / size_k).sqrt()) if size_k > 0 and size_w > 0 else 1.0
        gram = gram_matrix(system, self._weighting)
        if not np.isfinite(gram).all():
            raise ValueError(f"the system of {system.layer.name} holds values that are not finite")
        self._tall = system.equations >= system.n
        self.size = len(gram)
        cut = tolerance**2 * float(gram.diagonal().max())
        # The transpose is the same matrix in the order of memory that LAPACK wants, so that nothing is copied.
        lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(gram.T, lower=1, tol=cut, overwrite_a=1)
        self.rank: int = int(rank)
        self._order = pivots - 1
        lower[np.triu_indices(self.size, 1)] = 0.0
        self._lower = lower[:, : self.rank]  # rows in pivoted order

    @cached_property
    def _core(self) -> tuple[np.ndarray, bool]:
        """Cholesky factor of a matrix `(rank, rank)` with G's non-zero eigenvalues: LLᵀ if G is regular, else LᵀL."""
        if self.rank == self.size:
            return self._lower, True
        return scipy.linalg.cho_factor(self._lower.T @ self._lower, lower=True)

    @cached_property
    def condition(self) -> float:
        """Smallest non-zero over largest singular value of u (its blocks at equal size); 0 if u is zero."""
        if self.rank < 3:
            values = np.linalg.eigvalsh(self._lower.T @ self._lower)
            return float(np.sqrt(values[0] / values[-1])) if self.rank else 0.0
        shape, start = (self.rank, self.rank), np.random.default_rng(0).standard_normal(self.rank)
        # LLᵀ and LᵀL share their eigenvalues, and `_core` factors the one that is regular.
        inverse = LinearOperator(shape, matvec=lambda y: scipy.linalg.cho_solve(self._core, y), dtype=float)
        forward = LinearOperator(shape, matvec=lambda y: self._lower.T @ (self._lower @ y), dtype=float)
        ends = [eigsh(op, k=1, v0=start, tol=1e-3, return_eigenvectors=False)[0] for op in (inverse, forward)]
        return float(1 / np.sqrt(ends[0] * ends[1]))

    def pseudo_inverse(self, v: Tensor) -> Tensor:
        """`u⁺ v`, `(n,)`: the shortest of the least-squares solutions."""
        x = self._shortest(v)
        return x + self._shortest(v - self.system.apply(x))  # takes away what squaring u in G lost

    def _shortest(self, v: Tensor) -> Tensor:
        """`u⁺ v` to the accuracy of one solve with G."""
        weights = torch.ones_like(v)
        weights[self.system.z.numel() :] = self._weighting
        if self._tall:
            return self._inverse_gram(self.system.adjoint(weights**2 * v))
        return self.system.adjoint(weights * self._inverse_gram(weights * v))

    def project(self, x: Tensor) -> Tensor:
        """`(I − u⁺u) x`, the part of x `(n,)` that the system says nothing about."""
        for _ in range(2):  # as above
            x = x - self._shortest(self.system.apply(x))
        return x

    def _inverse_gram(self, y: Tensor) -> Tensor:
        """`G⁺ y`."""
        pivoted = y.double().cpu().numpy()[self._order]
        if self.rank == self.size:
            pivoted = scipy.linalg.cho_solve(self._core, pivoted)
        else:
            inner = scipy.linalg.cho_solve(self._core, self._lower.T @ pivoted)
            pivoted = self._lower @ scipy.linalg.cho_solve(self._core, inner)
        result = np.empty_like(pivoted)
        result[self._order] = pivoted
        return torch.from_numpy(result).to(y)
