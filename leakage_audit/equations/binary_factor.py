"""A gradient as a pattern of zeros and ones times an unknown input, tap by tap of a convolution's kernel.

    G_t = S R_t A        S (rows × P) of zeros and ones, A (P × c_in) not negative, R_t the positions that tap t reads

`G_t K = E R_t` for all t is linear in K and E; were A of full row rank, K = A⁺ and E = S would be its only solution
(`convolution_range`). Where channels are dead A has less, and that is still the smallest solution if K is measured by
what it makes of the gradient, `Σ_t |G_t K|² = 1`. The largest entries of E's rows are then taken for the ones, as many
as there are. Where some are wrong, alternating least squares over 0 ≤ S ≤ 1 with the known sums and A ≥ 0 mend them. S
is returned only if it reproduces G to its rounding with some A: one wrong unit leaves a residual of a tenth in its row.
"""

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
        agrees: Relative residual of each channel's gradient up to which the pattern is right.
        rounds: Alternations where the first pattern is not; most that come right do so within sixty.
        often: Of them, after so many it is looked whether the pattern is right.
        sweeps: Passes over the positions in an alternation.
        ridge: Share of the mean diagonal added to the first least squares for A, which the pattern may leave open.
    """

    rank: float = 1e-6
    whole: float = 0.1
    agrees: float = 1e-3
    rounds: int = 400
    often: int = 10
    sweeps: int = 2
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        self.check(("rank", "whole", "agrees", "often", "sweeps", "ridge"), ("rounds",))


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
        relaxed = self.relaxed(budget)
        found = self.rounded(relaxed)
        if self.is_right(found):
            return found
        options, s = self._options, relaxed.clamp(0, 1)
        gram = self._above(s).T @ self._above(s)
        gram.diagonal().add_(options.ridge * gram.diagonal().mean())
        a = torch.linalg.solve(gram, self._above(s).T @ self._columns).clamp_min(0)
        for done in range(1, options.rounds + 1):
            budget.check()
            above = self._above(s)
            a = _coordinates(a, above.T @ above, above.T @ self._columns, None, options.sweeps)
            below = self._below(a)
            gram, right = below @ below.T, below @ self._rows.T
            weight = gram.diagonal().mean()  # of the row sums, which the gradient tells hardly better
            s = _coordinates(s.T.contiguous(), gram + weight, right + weight * self._count, 1.0, options.sweeps).T
            if done % options.often == 0 and self.is_right(found := self.rounded(s)):
                return found
        return None

    def relaxed(self, budget: Budget) -> Tensor:
        """E `(rows, P)` of the smallest solution of `G_t K = E R_t`, scaled to S's sums."""
        values, vectors = torch.linalg.eigh(torch.einsum("toi,toj->ij", self._taps, self._taps))
        size = values.flip(0).clamp_min(0).sqrt()
        rank = int((size > self._options.rank * size[0]).sum())
        unknowns = rank * self.positions
        budget.require("a pooled pattern's null space", 16.0 * unknowns**2, unknowns**3 / 3)
        taps = self._taps @ (vectors.flip(1)[:, :rank] / size[:rank])
        found = smallest_vectors(eliminated_gram(taps, self._read, self.positions), 1, ConvolutionRangeOptions())[1]
        made = taps @ found[:, 0].reshape(self.positions, rank).T  # G_t K, (taps, rows, P)
        inside = self._read >= 0
        there = self._read.clamp_min(0)[:, None].expand(-1, made.shape[1], -1)
        e = (made.gather(2, there) * inside[:, None]).sum(0) / inside.sum(0)
        sums = e.sum(1)
        return e * (self._count @ sums / (sums @ sums))

    def rounded(self, s: Tensor) -> Tensor:
        """As many of each row's largest entries as are on."""
        place = s.argsort(1, descending=True).argsort(1)
        return (place < self._count[:, None]).to(s)

    def is_right(self, s: Tensor) -> bool:
        """Whether G's rows are those of S and some A."""
        above = self._above(s)
        a = torch.linalg.lstsq(above.cpu(), self._columns.cpu(), driver="gelsd").solution.to(s)  # of any rank
        rest = above @ a - self._columns
        rows = rest.reshape(self._taps.shape).permute(1, 0, 2).flatten(1).norm(dim=1)
        return bool((rows <= self._options.agrees * self._rows.norm(dim=1)).all())

    def _above(self, s: Tensor) -> Tensor:
        """`S R_t`, `(taps rows, P)`."""
        padded = s.new_zeros(len(self._read), len(s), self.positions + 1)
        index = torch.where(self._read >= 0, self._read, self.positions)[:, None].expand(-1, len(s), -1)
        return padded.scatter_add_(2, index, s.expand(len(self._read), -1, -1))[..., :-1].flatten(0, 1)

    def _below(self, a: Tensor) -> Tensor:
        """`R_t A`, `(P, taps c_in)`."""
        return torch.cat([a, a.new_zeros(1, a.shape[1])])[self._read].permute(1, 0, 2).flatten(1)


def _coordinates(x: Tensor, gram: Tensor, right: Tensor, most: float | None, sweeps: int) -> Tensor:
    """Minimise `½ tr xᵀ H x − tr rᵀ x` over 0 ≤ x ≤ most, row by row of `x (P, k)`, which is changed."""
    diagonal = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
    for _ in range(sweeps):
        for p in range(len(x)):
            x[p] = (x[p] - (gram[p] @ x - right[p]) / diagonal[p]).clamp(0.0, most)
    return x
