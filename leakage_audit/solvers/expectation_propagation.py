"""Intervals as Gaussians: expectation propagation (Minka 2001; Rasmussen & Williams 2006, section 3.6).

That a residual lies in an interval is no Gaussian fact. A Gaussian stands for it, its *site*, such that mean and
variance of the residual under the site and all that the other equations and the prior say of it (the *cavity*) are
what they are under the interval itself: those of a normal number cut off on both sides. Sites depend on each other
through the image; a few damped rounds settle them (docs/method/defences.md, section 15.6).
"""

import math

import torch
from torch import Tensor

LEAST = 1e-9  # share of a variance that is left of it
TINY = 1e-300  # guards a division


class IntervalSites:
    """What stands for the intervals, from round to round; where there is none, the equation as it is.

    Args:
        lower: Of each residual, `(m,)`.
        upper: Likewise.
        spread: Variance to begin with, `(m,)`.
        damping: Share of the way that a round goes.

    Attributes:
        mean: Of each site, `(m,)`.
        variance: Likewise.

    >>> sites = IntervalSites(torch.tensor([0.0]).double(), torch.tensor([torch.inf]).double(), torch.ones(1).double())
    >>> for _ in range(60):  # one equation with a prior of variance 1: the posterior is half a normal number
    ...     variance = 1 / (1 + 1 / sites.variance)
    ...     sites.update(variance * sites.mean / sites.variance, variance, torch.zeros(1).double())
    >>> variance = 1 / (1 + 1 / sites.variance)
    >>> round(float(variance * sites.mean / sites.variance), 4), round(float(variance), 4)  # √(2/π), 1 − 2/π
    (0.7979, 0.3634)
    """

    def __init__(self, lower: Tensor, upper: Tensor, spread: Tensor, damping: float = 0.7) -> None:
        self._lower, self._upper, self._damping = lower, upper, damping
        self._bounded = lower.isfinite() | upper.isfinite()
        self.mean, self.variance = torch.zeros_like(spread), spread.clone()

    def update(self, mean: Tensor, variance: Tensor, noise: Tensor) -> None:
        """One round.

        Args:
            mean: Of each residual under all that is known, `(m,)`.
            variance: Likewise.
            noise: Variance of what an equation errs by before it is held against its interval, `(m,)`.
        """
        variance = torch.minimum(variance, self.variance * (1 - LEAST)).clamp_min(TINY)
        cavity = 1 / (1 / variance - 1 / self.variance).clamp_min(TINY)
        centre = cavity * (mean / variance - self.mean / self.variance)
        whole = cavity + noise
        cut_mean, cut_variance = truncated_moments(centre, whole, self._lower, self._upper)
        gain = cavity / whole
        tilted_mean = centre + gain * (cut_mean - centre)
        tilted = (cavity - gain * cavity + gain.square() * cut_variance).clamp_min(LEAST * cavity)
        tilted = torch.minimum(tilted, cavity * (1 - LEAST))  # a bound that is far away says nothing
        precision = 1 / tilted - 1 / cavity
        shift = tilted_mean / tilted - centre / cavity
        old, old_shift, share = 1 / self.variance, self.mean / self.variance, self._damping
        new = (1 - share) * old + share * precision
        new_mean = ((1 - share) * old_shift + share * shift) / new
        self.variance = torch.where(self._bounded, 1 / new, self.variance)
        self.mean = torch.where(self._bounded, new_mean, self.mean)


def truncated_moments(mean: Tensor, variance: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of normal numbers given that they lie between two bounds.

    >>> found = truncated_moments(*(torch.tensor([x]).double() for x in (0.0, 4.0, 0.0, math.inf)))
    >>> [round(float(x), 4) for x in found]  # 2·√(2/π), 4·(1 − 2/π)
    [1.5958, 1.4535]
    """
    std = variance.sqrt()
    a, b = (lower - mean) / std, (upper - mean) / std
    mirrored = a + b > 0  # to the left of zero, where the distribution function keeps its digits
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    above, under = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    log_mass = above + torch.log1p(-torch.exp((under - above).clamp_max(-LEAST)))
    log_root = -0.5 * math.log(2 * math.pi)
    at_a, at_b = ((log_root - x.square() / 2 - log_mass).exp() for x in (a, b))
    at_a, at_b = (torch.where(x.isfinite(), at, 0.0) for x, at in ((a, at_a), (b, at_b)))
    first = at_a - at_b
    second = torch.where(a.isfinite(), a * at_a, 0.0) - torch.where(b.isfinite(), b * at_b, 0.0)
    spread = variance * (1 + second - first.square()).clamp(LEAST, 1.0)
    centre = mean + std * torch.where(mirrored, -first, first)
    return torch.minimum(torch.maximum(centre, lower), upper), spread
