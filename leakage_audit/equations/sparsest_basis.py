"""The sparsest basis of a subspace that sparse vectors span.

Let `M = S A` with unknown `S (N × r)`, whose columns have many exact zeros, and any invertible `A (r × r)`. A vector w
with `M w` a column of S up to a factor annihilates the rows of M where that column is zero. Three searches find such w:

- *Draws* (SPEAR, Dimitrov et al. 2024): r − 1 random rows determine w up to a factor, and it is one of those sought if
  that column is zero in all of them: about 2^(r−1) draws where half the entries are zero.
- *Dictionary learning*: minimise `Σ_j log((M w)_j² + ε²)` from random starts by reweighted least squares, ε falling to
  the noise (Candès, Wakin & Boyd 2008 for the weights; Sun, Qu & Wright 2017 for sparse vectors in a subspace).

- *Linear programmes*, where the columns are known to be non-negative (`nonnegative_rays`): milliseconds a column.

Each candidate is polished: w becomes the right singular vector of the rows that it annihilates, which must have rank
r − 1 (rows of lower rank annihilate more than one vector). The basis is chosen greedily by zeros: sets of independent
vectors are a matroid, so no other basis has more (SPEAR, lemma 5.4).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.equations.nonnegative_rays import extreme_rays
from leakage_audit.runtime import Budget

STEPS_KEPT = 8  # numbers per entry of a chunk that a search step keeps


@dataclass(frozen=True)
class SparsestBasisOptions:
    """How the sparsest basis is searched for.

    Attributes:
        cut: Standard deviations of noise below which an entry is zero: beyond 5 no noise of N < 1e6 entries reaches.
        min_share: Least share of zeros of a basis vector; below it a vector of chance, with r − 1 zeros, comes close.
        alike: Least zeros as a share of the second most: images switch on about as many units as each other.
        backing: Least share of the zeros that each dimension but one must be seen in.
        max_draws: Most draws in expectation; beyond this, dictionary learning is the faster.
        rounds: Rounds of either search; each draws anew.
        starts: Starts of one round of dictionary learning, and a thousandth of a round's draws.
        steps: Reweighted least-squares steps from each start; they settle within 30.
        patience: Rounds without a better basis after which the search ends.
        hits: Independent finds of each vector after which the search ends: with two, one that was missed had to be
            passed over as often as all the others were met.
        candidates: Of one round that are compared with each other; where draws hit this often, more say nothing.
        same: Two vectors are one whose cosine is short of one by less.
        independent: Length of a unit vector beside the others' span from which on it is independent of them.
        nonnegative: Whether the columns sought are known to have one sign, as what a rectifier puts out.
        programmes: Linear programmes in a row without a new vector after which the others are left to the searches.
        seed: Of the draws.
    """

    cut: float = 6.0
    min_share: float = 0.08
    alike: float = 0.3
    backing: float = 0.02
    max_draws: float = 3e4
    rounds: int = 40
    starts: int = 96
    steps: int = 40
    patience: int = 10
    hits: int = 2
    candidates: int = 2000
    same: float = 1e-6
    independent: float = 1e-3
    nonnegative: bool = False
    programmes: int = 8
    seed: int = 0


@dataclass(frozen=True)
class SparsestBasis:
    """Independent vectors w, the sparsest first.

    Attributes:
        vectors: w in the rows' coordinates, of unit length, `(k, r)`.
        zeros: How many rows each annihilates, `(k,)`; dead rows are not counted.
        alive: Rows that are above their noise.
    """

    vectors: Tensor
    zeros: Tensor
    alive: int


def sparsest_basis(
    rows: Tensor,
    noise: Tensor | float,
    options: SparsestBasisOptions | None = None,
    budget: Budget | None = None,
    max_memory_gb: float = 1.0,
) -> SparsestBasis:
    """Vectors that annihilate as many rows as possible.

    Args:
        rows: M, `(N, r)`, of rank r, in float64.
        noise: Standard deviation of each row's entries, in every direction the same; `(N,)` or a number.
        options: How to search.
        budget: Time limit.
        max_memory_gb: Memory that a chunk of candidates may take.

    Returns:
        As many vectors as were found, at most r.

    Example:
        >>> s = torch.block_diag(torch.rand(4, 1), torch.rand(4, 1)).double()
        >>> basis = sparsest_basis(s @ torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64), 1e-12)
        >>> basis.zeros.tolist()
        [4, 4]
    """
    options, budget = options or SparsestBasisOptions(), budget or Budget()
    noise = torch.as_tensor(noise, dtype=rows.dtype, device=rows.device).expand(len(rows))
    # Rows of no image are zeros of every vector: with them in, everything looks sparse.
    alive = rows.norm(dim=1) > options.cut * noise * math.sqrt(rows.shape[1])
    search = _Search(rows[alive], noise[alive], options, budget, max_memory_gb * 1e9)
    return search()


class _Search:
    """Candidates in whitened coordinates q: M = U Σ Vᵀ, w = V Σ⁻¹ q."""

    def __init__(
        self, rows: Tensor, noise: Tensor, options: SparsestBasisOptions, budget: Budget, memory: float
    ) -> None:
        self._options, self._budget, self._memory = options, budget, memory
        self._generator = torch.Generator().manual_seed(options.seed)
        self._rows, self._noise = rows, noise.clamp_min(1e-300)
        u, s, vh = torch.linalg.svd(rows, full_matrices=False)
        # Noise alone has singular values of about √N in units of itself.
        beyond = torch.linalg.svdvals(rows / self._noise[:, None]) > 2 * math.sqrt(len(rows))
        self._complete = int(beyond.sum()) == rows.shape[1] and bool(s[-1] > 1e-13 * s[0])
        self._u, self._whiten = u, vh.T / s.clamp_min(1e-300)
        self._kept: list[tuple[Tensor, int]] = []  # w and how often it was found
        self._least = max(options.min_share * len(rows), 2.0 * rows.shape[1])

    def __call__(self) -> SparsestBasis:
        r = self._rows.shape[1]
        if not self._complete:
            return self._basis([])
        if r == 1:
            return SparsestBasis(self._rows.new_ones(1, 1), torch.zeros(1, dtype=torch.long), len(self._rows))
        self._least = min(self._least, len(self._rows) * 0.25) if len(self._rows) < 8 * r else self._least
        draws = 2.0 ** (r - 1) * (1 + math.log(r))
        chosen: list[tuple[Tensor, int, int]] = []
        idle = 0
        if self._options.nonnegative:
            slack = self._options.cut * float(self._noise.max()) * math.sqrt(r)
            options = self._options
            self._keep(extreme_rays(self._rows, slack, options.programmes, options.seed, self._budget))
            chosen = self._greedy()
            if len(chosen) == r:
                return self._basis(chosen)
        for step in self._budget.steps(self._options.rounds, "sparsest basis"):
            by_draws = draws <= self._options.max_draws and step % 4 != 3
            self._keep(self._drawn() if by_draws else self._learned([w for w, _, _ in chosen]))
            before, chosen = chosen, self._greedy()
            idle = 0 if _total(chosen) > _total(before) else idle + 1
            if idle >= self._options.patience:
                break
            if len(chosen) == r and min(hits for *_, hits in chosen) >= self._options.hits:
                break
        return self._basis(chosen)

    def _zeros(self, w: Tensor) -> Tensor:
        """Which rows each w annihilates, `(k, N)`, for unit vectors `(k, r)`."""
        return (w @ self._rows.T).abs() <= self._options.cut * self._noise

    def _drawn(self) -> Tensor:
        """Kernels of random sets of r − 1 rows, as unit w, those that are zero often enough."""
        r, n = self._rows.shape[1], len(self._rows)
        chunk = int(min(1000 * self._options.starts // 4, self._memory / 8 / STEPS_KEPT / max(n, r * r)))
        picked = torch.randint(n, (max(chunk, 1), r - 1), generator=self._generator).to(self._rows.device)
        extra = torch.randn(len(picked), 1, r, generator=self._generator, dtype=self._rows.dtype).to(self._rows)
        systems = torch.cat([self._u[picked] / self._u[picked].norm(dim=2, keepdim=True), extra], 1)
        right = torch.zeros(len(picked), r, dtype=systems.dtype, device=systems.device)
        right[:, -1] = 1
        q = torch.linalg.solve_ex(systems, right)[0]
        q = q[torch.isfinite(q).all(1)]
        w = _unit(q @ self._whiten.T)
        return w[self._zeros(w).sum(1) >= self._least]

    def _learned(self, found: list[Tensor]) -> Tensor:
        """Local minima of Σ log((U q)² + ε²), started off the vectors that are known, as unit w."""
        n, r = self._u.shape
        q = torch.randn(self._options.starts, r, generator=self._generator, dtype=self._u.dtype).to(self._u)
        if 0 < len(found) < r:
            known = torch.linalg.qr(torch.linalg.pinv(self._whiten) @ torch.stack(found, 1))[0]
            q = q - q @ known @ known.T
        q = _unit(q)
        some = self._u[torch.randperm(n, generator=self._generator)[: max(64 * r, 2000)].to(self._u.device)]
        some = some * math.sqrt(n)
        outer = (some[:, :, None] * some[:, None, :]).flatten(1)
        for epsilon in torch.logspace(0, -6, self._options.steps).tolist():
            if self._budget.exhausted:
                break
            weights = 1 / ((q @ some.T).square() + epsilon**2)
            normal = (weights @ outer).reshape(-1, r, r)
            q = torch.linalg.eigh(normal)[1][:, :, 0]
        return _unit(q @ self._whiten.T)

    def _keep(self, candidates: Tensor) -> None:
        """Polish the candidates, alike ones once, and count how often each was found."""
        for w, hits in self._distinct(candidates[: self._options.candidates]):
            polished = None if self._budget.exhausted else self._polished(w)
            if polished is None:
                continue
            for place, (other, before) in enumerate(self._kept):
                if float((polished @ other).abs()) > 1 - self._options.same:
                    self._kept[place] = (other, before + hits)
                    break
            else:
                self._kept.append((polished, hits))

    def _distinct(self, candidates: Tensor) -> list[tuple[Tensor, int]]:
        """Candidates that differ, and how often each came."""
        q = _unit(candidates @ torch.linalg.pinv(self._whiten).T)
        alike = (q @ q.T).abs() > 0.9999
        left, found = torch.ones(len(q), dtype=torch.bool, device=q.device), []
        for place in range(len(q)):
            if left[place]:
                group = alike[place] & left
                found.append((candidates[place], int(group.sum())))
                left &= ~group
        return found

    def _polished(self, w: Tensor) -> Tensor | None:
        """The vector that best annihilates the rows that w does; None if these do not determine it."""
        loose = 100.0  # a candidate's own error is larger than the noise at first
        for cut in (loose, 10.0, 1.0, 1.0):
            zero = (self._rows @ w).abs() <= cut * self._options.cut * self._noise
            if int(zero.sum()) < max(self._least, self._rows.shape[1]):
                return None
            # Rows by their noise: the least singular value of weighted rows is then about √N where w fits.
            weighted = self._rows[zero] / self._noise[zero, None]
            _, _, vh = torch.linalg.svd(weighted, full_matrices=False)
            # Zeros that two images share leave two dimensions open, and a few chance zeros close one of them.
            backing = int(((weighted @ vh[-2]).abs() > 4 * self._options.cut).sum())
            if backing < max(self._options.backing * int(zero.sum()), 3):
                return None
            w = vh[-1]
        return w if int(self._zeros(w[None]).sum()) >= self._least else None

    def _greedy(self) -> list[tuple[Tensor, int, int]]:
        """The independent vectors with the most zeros: w, zeros, hits."""
        if not self._kept:
            return []
        w = torch.stack([w for w, _ in self._kept])
        zeros = self._zeros(w).sum(1)
        q = _unit(w @ torch.linalg.pinv(self._whiten).T)
        chosen: list[tuple[Tensor, int, int]] = []
        basis = q[:0]
        for place in zeros.argsort(descending=True).tolist():
            if len(chosen) == w.shape[1] or int(zeros[place]) < self._options.alike * (
                chosen[min(1, len(chosen) - 1)][1] if chosen else 0
            ):
                break
            rest = q[place] - basis.T @ (basis @ q[place])
            if rest.norm() > self._options.independent:
                basis = torch.cat([basis, (rest / rest.norm())[None]])
                chosen.append((w[place], int(zeros[place]), self._kept[place][1]))
        return chosen

    def _basis(self, chosen: list[tuple[Tensor, int, int]]) -> SparsestBasis:
        r = self._rows.shape[1]
        vectors = torch.stack([w for w, _, _ in chosen]) if chosen else self._rows.new_zeros(0, r)
        return SparsestBasis(vectors, torch.tensor([z for _, z, _ in chosen], dtype=torch.long), len(self._rows))


def _unit(vectors: Tensor) -> Tensor:
    """Rows of unit length."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-300)


def _total(chosen: list[tuple[Tensor, int, int]]) -> int:
    """Zeros of all vectors together."""
    return sum(zeros for _, zeros, _ in chosen)
