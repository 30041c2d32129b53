"""Three ways to factor the smaller Gram matrix G of a layer system, the cheap ones first.

Each knows the rank, why it is certain, and G⁺. The first two only confirm what shapes predict: a Cholesky factor of
`G − cut·I` (on the space where G is not zero by construction) exists if and only if no eigenvalue there is below the
cut. Where it does not exist the third finds the rank. Eigenvalues of G are squares of u's singular values, so a
singular value is told from zero down to about 1e-7 of the largest.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg
import torch

from leakage_audit.layerwise.block_cholesky import BlockCholesky, weight_gram_blocks
from leakage_audit.layerwise.gram import gram_matrix, identities
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.options import Checked


@dataclass(frozen=True)
class FactorOptions(Checked):
    """How a layer system is factored.

    Attributes:
        clear: Ratio of neighbouring pivots, that is of squared singular values, that counts as a gap; the layers' gaps
            are nine orders of magnitude wider.
        largest_svd: Size of G up to which a gap that is not clear is settled by singular values, in seconds.
        small: Size of G below which singular values are simply computed, quicker than by Lanczos.
        rounds: Of refinement at most; each takes away what squaring u in G and cutting its spectrum lost, about six
            digits, so that two or three suffice.
        dependent: Pivots of the known identities below this share of the largest make them dependent; a Gram matrix
            tells no smaller singular value from zero.
        extremes: Relative error of the largest and the smallest singular value: they scale a cut and a condition, which
            orders of magnitude separate from anything they are held against.
    """

    clear: float = 1e4
    largest_svd: int = 1500
    small: int = 20
    rounds: int = 6
    dependent: float = 1e-7
    extremes: float = 1e-2

    def __post_init__(self) -> None:
        self.check(positive=("clear", "rounds"), not_negative=("largest_svd", "small"), share=("dependent", "extremes"))


DEFAULT = FactorOptions()


class GramFactor(Protocol):
    """A factored G.

    Attributes:
        rank: Its rank.
        way: How the rank was found.
        dropped: The largest singular value of u that counts as zero, or a bound for it; None if none does.
    """

    rank: int
    way: str
    dropped: float | None

    def solve(self, y: np.ndarray) -> np.ndarray:
        """About `G⁺ y`: what is lost to the cut is won back by refinement."""


class BlockTridiagonalCholesky:
    """Tall systems whose W alone determines the input: WᵀW is block tridiagonal, and KᵀK has low rank.

    Raises:
        np.linalg.LinAlgError: If an eigenvalue of WᵀW, unread inputs aside, is not above the cut.
    """

    dropped: float | None = None
    way = "Cholesky of WᵀW"

    def __init__(self, system: LayerSystem, weighting: float, cut: float) -> None:
        diagonal, below = weight_gram_blocks(system)
        for block in diagonal:
            block[np.diag_indices(len(block))] -= cut
        self._system, self._weighting = system, weighting
        self._cholesky = BlockCholesky(diagonal, below)
        self._order = np.arange(system.n).reshape(system.layer.in_shape).transpose(1, 2, 0).reshape(-1)
        self.rank = system.layer.in_shape[0] * system.layer.pixels_read.size

    @cached_property
    def _update(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, bool]]:
        """K, (WᵀW)⁻¹Kᵀ and the factor of I + K(WᵀW)⁻¹Kᵀ: G⁻¹ by Woodbury's formula."""
        k = self._weighting * self._system.gradient_matrix()[:, self._order]
        solved = self._cholesky.solve(np.ascontiguousarray(k.T))
        core = k @ solved
        core[np.diag_indices(len(core))] += 1
        return k, solved, scipy.linalg.cho_factor(core, lower=True)

    @cached_property
    def _dense(self) -> tuple[np.ndarray, bool]:
        gram = gram_matrix(self._system, self._weighting)
        np.fill_diagonal(gram, np.where(gram.diagonal() == 0, 1, gram.diagonal()))
        return scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)

    def solve(self, y: np.ndarray) -> np.ndarray:
        """See `GramFactor`."""
        gradient = self._system.gradient
        if gradient is not None and 4 * gradient.numel() > self._system.n:
            return scipy.linalg.cho_solve(self._dense, y, check_finite=False)
        x = self._cholesky.solve(y[self._order])
        if gradient is not None:
            k, solved, core = self._update
            x -= solved @ scipy.linalg.cho_solve(core, k @ x)
        result = np.empty_like(x)
        result[self._order] = x
        return result


class DeflatedCholesky:
    """Wide systems that lose only the equations that every convolution loses.

    Raises:
        np.linalg.LinAlgError: If the identities are dependent, or an eigenvalue of G besides theirs is not above the
            cut.
    """

    way = "Cholesky of uuᵀ without its known identities"

    def __init__(
        self, system: LayerSystem, weighting: float, cut: float, largest: float, options: FactorOptions = DEFAULT
    ) -> None:
        gram = gram_matrix(system, weighting)
        null = np.zeros((len(gram), 0)) if system.gradient is None else identities(system, weighting)
        if null.shape[1] >= len(gram):
            raise np.linalg.LinAlgError("more identities than equations")
        self._null, r = np.linalg.qr(null)
        ends = np.abs(r.diagonal())
        if len(ends) and ends.min() <= options.dependent * ends.max():
            raise np.linalg.LinAlgError("the identities are dependent")
        self.rank = len(gram) - null.shape[1]
        self.dropped = self._checked(system, weighting)
        gram += (largest * self._null) @ self._null.T
        gram[np.diag_indices(len(gram))] -= cut
        self._cholesky = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)

    def _checked(self, system: LayerSystem, weighting: float) -> float | None:
        """How far the identities are from holding in fact: `‖uᵀN‖`, estimated from one combination of them."""
        count = self._null.shape[1]
        if not count:
            return None
        mixed = self._null @ np.random.default_rng(0).standard_normal(count)
        mixed[system.z.numel() :] *= weighting
        return float(system.adjoint(torch.from_numpy(mixed).to(system.dz)).norm())

    def solve(self, y: np.ndarray) -> np.ndarray:
        """See `GramFactor`."""
        y = y - self._null @ (self._null.T @ y)
        x = scipy.linalg.cho_solve(self._cholesky, y, check_finite=False)
        return x - self._null @ (self._null.T @ x)


class PivotedCholesky:
    """Any system: `Pᵀ G P ≈ L Lᵀ` by Cholesky with pivoting, L of `rank` columns, and `G⁺ = P L (LᵀL)⁻² Lᵀ Pᵀ`.

    Where the pivots show no clear gap at the cut, singular values of u settle the rank.
    """

    def __init__(self, system: LayerSystem, weighting: float, cut: float, options: FactorOptions = DEFAULT) -> None:
        gram = gram_matrix(system, weighting)
        self._size = len(gram)
        # The transpose is the same matrix in the order of memory that LAPACK wants, so that nothing is copied.
        lower, order, found, _ = scipy.linalg.lapack.dpstrf(gram.T, lower=1, tol=-1.0, overwrite_a=1)
        pivots = lower.diagonal()[:found] ** 2
        rank = int((pivots > cut).sum())
        self.way, self.dropped = "pivoted Cholesky of G", None
        if rank < self._size:
            floor = self._size * np.finfo(float).eps * pivots.max(initial=0.0)
            next_one = float(pivots[rank]) if rank < found else floor
            self.dropped = float(np.sqrt(next_one))
            if rank and pivots[rank - 1] < options.clear * next_one and self._size <= options.largest_svd:
                u = system.matrix()
                u[system.z.numel() :] *= weighting
                values = np.append(np.linalg.svd(u, compute_uv=False), 0.0)
                rank = int((values > np.sqrt(cut)).sum())
                self.way, self.dropped = "singular values of u", float(values[rank])
        self.rank, self._order = rank, order - 1
        lower[np.triu_indices(self._size, 1)] = 0.0
        self._lower = lower[:, :rank]  # rows in pivoted order

    @cached_property
    def _core(self) -> tuple[np.ndarray, bool]:
        if self.rank == self._size:
            return self._lower, True
        return scipy.linalg.cho_factor(self._lower.T @ self._lower, lower=True)

    def solve(self, y: np.ndarray) -> np.ndarray:
        """See `GramFactor`."""
        pivoted = y[self._order]
        if self.rank == self._size:
            pivoted = scipy.linalg.cho_solve(self._core, pivoted)
        elif self.rank:
            inner = scipy.linalg.cho_solve(self._core, self._lower.T @ pivoted)
            pivoted = self._lower @ scipy.linalg.cho_solve(self._core, inner)
        else:
            pivoted = np.zeros_like(pivoted)
        result = np.empty_like(pivoted)
        result[self._order] = pivoted
        return result
