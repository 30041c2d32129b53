"""How far equations of known noise are trusted: until their residual is as large as noise leaves it.

A prior that is too heavy holds the residual above that (Morozov 1966); it is lighter against equations whose noise is
taken for smaller than it is. What is expected of m equations is not m squares of their noise, as the image follows a
part of it: m − γ, γ the effective number of parameters (MacKay 1992). One factor serves all equations. A block that is
off by more than chance makes it, be it one equation beside a thousand that fit, gets one of its own
(docs/method/defences.md).
"""

import math

import torch
from torch import Tensor

from leakage_audit.solvers.options import SolverOptions


class Discrepancy:
    """The factor of each equation's variance, from step to step.

    Args:
        floor: Standard deviation of each equation, `(m,)`.
        sizes: Number of equations of each block.
        options: How far, and how fast, it is lowered.

    Attributes:
        trust: The factor of each equation's variance, `(m,)`.

    >>> rule = Discrepancy(torch.ones(101), [100, 1], SolverOptions())
    >>> settled = rule(torch.tensor([1.0] * 100 + [3.0]), torch.ones(101))  # all as they should, but for the last
    >>> settled, bool(rule.trust[0] > 0.8 > 0.4 > rule.trust[-1])
    (False, True)
    """

    def __init__(self, floor: Tensor, sizes: list[int], options: SolverOptions) -> None:
        self._floor, self._sizes, self._options = floor, sizes, options
        self._common, self._own = 1.0, [1.0] * len(sizes)
        # A mean of m squares of a normal number exceeds one by chance: its standard deviation is the root of 2/m.
        self._most = [1 + options.trust_chance * math.sqrt(2 / max(size, 1)) for size in sizes]
        self.trust = torch.ones_like(floor)

    def __call__(self, r: Tensor, expected: Tensor) -> bool:
        """Lower or raise the factors; whether they have settled.

        Args:
            r: The residual, `(m,)`.
            expected: Square of each equation's residual that is expected, in units of its variance, `(m,)`.
        """
        squares, before = (r / self._floor).square(), self.trust
        off = float(squares.mean() / expected.mean().clamp_min(self._options.least_trust))
        self._common = self._moved(self._common, off, self._options.trust_pace)
        own = []
        for i, block in enumerate(squares.split(self._sizes)):
            if len(block):
                self._own[i] = self._moved(self._own[i], float(block.mean()) / self._most[i])
            own.append(torch.full_like(block, self._own[i]))
        self.trust = (self._common * torch.cat(own)).clamp_min(self._options.least_trust)
        return bool((self.trust / before - 1).abs().max() < self._options.trust_settled)

    def _moved(self, factor: float, off: float, pace: float = 1.0) -> float:
        return min(1.0, max(factor / max(off, 0.5) ** pace, self._options.least_trust))
