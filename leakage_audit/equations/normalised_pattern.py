"""The rectifier's pattern behind an average pooling and batch statistics, from a convolution's gradient.

With S the pattern, x̂ what the normalisation makes of the convolution's output and σ its deviation, the derivative at
that output is, channel by channel, `γ d / σ · (S − n/P − ρ x̂)`: the shared gradients of the shift and the scale tell
n, how many units are on, and ρ, the sum of x̂ over them as a share of P (docs/method/batch-norm.md, (M80)).
`G_t K = E R_t` (`convolution_range`) has that derivative for its only solution, but for a factor, where no channel is
dead and the input has full rank. The input that follows from it by least squares has x̂ and, but for the same factor, σ:
the pattern is what is left. It is certified as others are: what it makes of the derivative must reproduce the gradient.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.equations.binary_factor import BinaryFactor
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class Normalised:
    """A convolution of stride 1 whose output is normalised by its own statistics.

    Attributes:
        layer: The convolution.
        problem: `G_t / (γ d) = (S − n/P − ρ x̂) / σ R_t A` for the channels of which some units are on and some off.
        rows: These channels.
        count: n of them.
        share: ρ of them.
        eps: That the normalisation adds to the variance.
    """

    layer: nn.Conv2d
    problem: BinaryFactor
    rows: Tensor
    count: Tensor
    share: Tensor
    eps: float


def pattern_below_statistics(
    reader: Normalised, size: tuple[int, int], rounds: int, agrees: float, budget: Budget
) -> Tensor | None:
    """S `(rows, P)`, or None if none is found that reproduces the gradient.

    Args:
        reader: The convolution.
        size: Of its input.
        rounds: Most times that the input is fitted to a pattern and the pattern to the input.
        agrees: Relative residual up to which a pattern reproduces the gradient.
        budget: Limits of time and memory.

    Raises:
        OverBudget: If these do not suffice.
    """
    problem, mean = reader.problem, reader.count[:, None] / reader.problem.positions
    derivative = problem.smallest(budget)
    scaled = False
    for _ in range(rounds):
        budget.check()
        a, residual = problem.input_of(derivative)
        if a.sum() < 0:
            a, derivative = -a, -derivative
        with torch.no_grad():
            z = F.conv2d(a.T.reshape(1, -1, *size), reader.layer.weight.detach(), padding=reader.layer.padding)
        z = z[0].flatten(1)[reader.rows]
        deviation = (z.var(1, unbiased=False, keepdim=True) + scaled * reader.eps).sqrt()
        whitened = (z - z.mean(1, keepdim=True)) / deviation
        pattern = problem.rounded(deviation * derivative + mean + reader.share[:, None] * whitened)
        if scaled and residual <= agrees:
            return pattern
        derivative, scaled = (pattern - mean - reader.share[:, None] * whitened) / deviation, True
    return None
