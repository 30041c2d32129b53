"""A gradient as a pattern of zeros and ones times an unknown input, tap by tap of a convolution's kernel.

    G_t = S R_t A        S (rows × P) of zeros and ones, A (P × c_in) not negative, R_t the positions that tap t reads

`G_t K = E R_t` for all t is linear in K and E; were A of full row rank, K = A⁺ and E = S would be its only solution
(`convolution_range`). Where channels are dead A has less, and that is still the smallest solution if K is measured by
what it makes of the gradient, `Σ_t |G_t K|² = 1`. The largest entries of E's rows are then taken for the ones, as many
as there are. Most rows are then right, and all of them agree on one A, which least squares find that give each row the
say of its inverse squared residual; the others are fitted to it, and where that does not mend them alternating least
squares over 0 ≤ S ≤ 1 with the known sums and A ≥ 0 do, the right rows being kept. S is returned only if all rows agree
on some A: one wrong unit leaves a residual of a tenth in its row.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.equations.convolution_range import ConvolutionRangeOptions, eliminated_gram, smallest_vectors
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class PooledPatternOptions(Checked):
    """When a pattern is searched for, and when it counts as found.

    Attributes:
        rank: Singular values of the gradient below this share of the largest are rounding: float32 leaves 1e-7.
        whole: How far from a whole number a channel's number of units may be; rounding leaves a thousandth.
        agrees: Relative residual of a row up to which it agrees: rounding leaves 1e-6, one wrong unit a tenth.
        rounds: Times that rows which do not agree are searched for; two to six were needed.
        alternations: Between these rows and the input, a round.
        anew: The same where a round mended none and they begin anew.
        spread: Standard deviation of a row that does, around its mean.
        again: Times a round that the wrong rows are fitted to what the others tell, before it.
        reweightings: Of the rows, until the wrong ones have no say.
        soft: Relative residual below which a row counts no more than others.
        sweeps: Passes over the positions in an alternation.
        sweeps_again: And where a row is fitted to a fixed input.
        share: Of the time left that the search's null space may take; what follows it takes as long at least.
        ridge: Share of the mean diagonal by which least squares are kept from being singular.
        seed: Of the rows that begin anew.
    """

    rank: float = 1e-6
    whole: float = 0.1
    agrees: float = 1e-3
    rounds: int = 30
    alternations: int = 15
    anew: int = 40
    spread: float = 0.3
    again: int = 4
    reweightings: int = 12
    soft: float = 1e-4
    sweeps: int = 2
    sweeps_again: int = 20
    share: float = 0.5
    ridge: float = 1e-9
    seed: int = 0

    def __post_init__(self) -> None:
        self.check(
            ("rank", "whole", "agrees", "spread", "reweightings", "soft", "sweeps", "sweeps_again", "ridge"),
            ("rounds", "alternations", "anew", "again", "seed"),
            share=("share",),
        )


class BinaryFactor:
    """`G_t = S R_t A` with S of zeros and ones, of known row sums, and A not negative.

    Args:
        taps: G, `(taps, rows, c_in)`.
        read: Which position each output position reads through each tap, `(taps, P)`, −1 for none.
        count: Row sums of S, `(rows,)`, none of them zero.
        positions: P.
        options: When S counts as found.
    """

    def __init__(
        self, taps: Tensor, read: Tensor, count: Tensor, positions: int, options: PooledPatternOptions
    ) -> None:
        self.positions, self._taps, self._read, self._count, self._options = positions, taps, read, count, options
        self._rows = taps.permute(1, 0, 2).flatten(1)  # (rows, taps c_in)
        self._columns = taps.flatten(0, 1)  # (taps rows, c_in)

    def solve(self, budget: Budget) -> Tensor | None:
        """S `(rows, P)`, or None if none is found that reproduces G.

        Raises:
            OverBudget: If time or memory do not suffice.
        """
        options, before = self._options, -1
        generator = torch.Generator().manual_seed(options.seed)
        s = self.relaxed(budget).clamp(0, 1)
        for _ in range(options.rounds):
            found, s, a, wrong = self._mended(self.rounded(s), s, budget)
            count, alternations = int(wrong.sum()), options.alternations
            if not count:
                return found
            if bool(wrong.all()):  # a gradient that carries more than rounding, or another problem
                return None
            if count == before:  # stuck: these rows from anew
                noise = torch.randn(count, self.positions, generator=generator, dtype=torch.float64).to(s)
                s[wrong] = (self._count[wrong, None] / self.positions + options.spread * noise).clamp(0, 1)
                alternations = options.anew
            before = count
            for _ in range(alternations):
                budget.check()
                s[wrong] = self._pattern(a, wrong, s[wrong])
                above = self._above(s).flatten(0, 1)
                a = _coordinates(a, above.T @ above, above.T @ self._columns, None, options.sweeps)
        return None

    def _mended(self, found: Tensor, s: Tensor, budget: Budget) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A pattern with its wrong rows fitted anew to the input that the others tell.

        Returns:
            The pattern, the same with the wrong rows as they were before rounding, A, and which rows are wrong.
        """
        a, wrong = self.fit(found)
        for _ in range(self._options.again):
            if not wrong.any():
                break
            budget.check()
            s, found = found.clone(), found.clone()
            below, left = self._below(a), a.new_full((1, 1), math.inf)
            for soft in (self._solved(a, wrong), self._pattern(a, wrong, found[wrong], self._options.sweeps_again)):
                whole = self.rounded(soft, wrong)
                rest = (whole @ below - self._rows[wrong]).square().sum(1, keepdim=True)
                s[wrong], found[wrong] = soft.where(rest < left, s[wrong]), whole.where(rest < left, found[wrong])
                left = torch.minimum(rest, left)
            a, wrong = self.fit(found)
        return found, s, a.clamp_min(0), wrong

    def fit(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A `(P, c_in)` as most rows of a pattern have it, and the rows that do not agree, `(rows,)`.

        A row counts by the inverse square of its residual: wrong ones have no say in what the right ones tell.
        """
        options, above = self._options, self._above(s)
        size, weights = self._rows.square().sum(1), torch.ones_like(self._count)
        for _ in range(options.reweightings):
            weighted = above * weights[:, None]
            gram = torch.einsum("tcp,tcq->pq", weighted, above)
            gram.diagonal().add_(options.ridge * gram.diagonal().mean())
            a = torch.linalg.solve(gram, torch.einsum("tcp,tci->pi", weighted, self._taps))
            rest = (above @ a - self._taps).square().sum((0, 2)) / size
            weights = 1 / (rest + options.soft**2)
            weights = weights / weights.max()
        return a, rest.sqrt() > options.agrees

    def _solved(self, a: Tensor, rows: Tensor) -> Tensor:
        """Some rows of S as G and their sums tell with this A, of any size: exact where A is, however conditioned."""
        below = self._below(a)
        gram, right = below @ below.T, below @ self._rows[rows].T
        weight = gram.diagonal().mean()
        gram.diagonal().add_(self._options.ridge * weight)
        return torch.linalg.solve(gram + weight, right + weight * self._count[rows]).T

    def _pattern(self, a: Tensor, rows: Tensor, s: Tensor, sweeps: int | None = None) -> Tensor:
        """Some rows of S in [0, 1], with their sums, closest to G with this A; from `s`."""
        below = self._below(a)
        gram, right = below @ below.T, below @ self._rows[rows].T
        weight = gram.diagonal().mean()  # of the row sums, which are known as well as anything
        return _coordinates(
            s.T, gram + weight, right + weight * self._count[rows], 1.0, sweeps or self._options.sweeps
        ).T

    def relaxed(self, budget: Budget) -> Tensor:
        """E `(rows, P)` of the smallest solution of `G_t K = E R_t`, scaled to S's sums."""
        e = self.smallest(budget)
        sums = e.sum(1)
        return e * (self._count @ sums / (sums @ sums))

    def smallest(self, budget: Budget) -> Tensor:
        """The same, of any scale and sign."""
        values, vectors = torch.linalg.eigh(torch.einsum("toi,toj->ij", self._taps, self._taps))
        size = values.flip(0).clamp_min(0).sqrt()
        rank = int((size > self._options.rank * size[0]).sum())
        unknowns = rank * self.positions
        budget.require("a pooled pattern's null space", 16.0 * unknowns**2, unknowns**3 / self._options.share)
        taps = self._taps @ (vectors.flip(1)[:, :rank] / size[:rank])
        found = smallest_vectors(eliminated_gram(taps, self._read, self.positions), 1, ConvolutionRangeOptions())[1]
        made = taps @ found[:, 0].reshape(self.positions, rank).T  # G_t K, (taps, rows, P)
        inside = self._read >= 0
        there = self._read.clamp_min(0)[:, None].expand(-1, made.shape[1], -1)
        return (made.gather(2, there) * inside[:, None]).sum(0) / inside.sum(0)

    def input_of(self, s: Tensor) -> tuple[Tensor, float]:
        """A `(P, c_in)` by least squares for any S, and the relative residual."""
        above = self._above(s).flatten(0, 1)
        gram = above.T @ above
        gram.diagonal().add_(self._options.ridge * gram.diagonal().mean())
        a = torch.linalg.solve(gram, above.T @ self._columns)
        return a, float((above @ a - self._columns).norm() / self._columns.norm())

    def rounded(self, s: Tensor, rows: Tensor | None = None) -> Tensor:
        """As many of each row's largest entries as are on; of all rows, or of some."""
        place, count = s.argsort(1, descending=True).argsort(1), self._count if rows is None else self._count[rows]
        return (place < count[:, None]).to(s)

    def _above(self, s: Tensor) -> Tensor:
        """`S R_t`, `(taps, rows, P)`."""
        padded = s.new_zeros(len(self._read), len(s), self.positions + 1)
        index = torch.where(self._read >= 0, self._read, self.positions)[:, None].expand(-1, len(s), -1)
        return padded.scatter_add_(2, index, s.expand(len(self._read), -1, -1))[..., :-1]

    def _below(self, a: Tensor) -> Tensor:
        """`R_t A`, `(P, taps c_in)`."""
        return torch.cat([a, a.new_zeros(1, a.shape[1])])[self._read].permute(1, 0, 2).flatten(1)


def _coordinates(x: Tensor, gram: Tensor, right: Tensor, most: float | None, sweeps: int) -> Tensor:
    """Minimise `½ tr xᵀ H x − tr rᵀ x` over 0 ≤ x ≤ most, row by row of `x (P, k)`."""
    x = x.clone(memory_format=torch.contiguous_format)
    diagonal = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
    for _ in range(sweeps):
        for p in range(len(x)):
            x[p] = (x[p] - (gram[p] @ x - right[p]) / diagonal[p]).clamp(0.0, most)
    return x
