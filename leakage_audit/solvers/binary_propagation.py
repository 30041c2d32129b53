"""Unknowns that are 0 or 1 among Gaussian ones: expectation propagation (Minka 2001) on their joint precision.

A Gaussian stands for "0 or 1, with these odds", its *site*, such that mean and variance of the unknown are what they
are under the two values themselves, given all that the equations and the other unknowns say of it (the *cavity*). A few
damped rounds settle the sites (docs/method/joint.md, section 5.16, (M116)).
"""

import torch
from torch import Tensor

from leakage_audit.solvers.gaussian_update import cholesky


def propagate_binary(
    precision: Tensor,
    shift: Tensor,
    odds: Tensor,
    rounds: int,
    damping: float,
    jitters: tuple[float, ...],
    least: float = 1e-4,
    weak: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """Mean `(k,)` and covariance `(k, k)` of unknowns that are 0 or 1, under a Gaussian likelihood.

    Args:
        precision: Of the likelihood exp(−aᵀ P a/2 + sᵀ a), `(k, k)`.
        shift: s, `(k,)`.
        odds: Probability of 1 before the likelihood, `(k,)`, between 0 and 1.
        rounds: Of propagation.
        damping: Share of the way that a round goes.
        jitters: See `cholesky`.
        least: Least probability of either value that a site stands for.
        weak: Least precision of a site; what would have less is left as it is.

    >>> odds = torch.tensor([0.5]).double()  # a number said to be 0.9 ± 0.3: exp(0.4/0.09) times likelier 1 than 0
    >>> tight = torch.tensor([[1 / 0.09]]).double()
    >>> mean, _ = propagate_binary(tight, 0.9 * tight[0], odds, rounds=30, damping=0.5, jitters=(0.0,))
    >>> round(float(mean), 4), round(float(torch.sigmoid(torch.tensor(0.4 / 0.09))), 4)
    (0.9884, 0.9884)
    """
    odds = odds.clamp(least, 1 - least)
    own, own_shift = 1 / (odds * (1 - odds)), 1 / (1 - odds)
    mean, covariance = _posterior(precision, shift, own, own_shift, jitters)
    for _ in range(rounds):
        variance = covariance.diagonal()
        cavity = (1 / variance - own).clamp_min(weak / 10)
        centre = (mean / variance - own_shift) / cavity
        q = torch.sigmoid(odds.logit() + cavity * (centre - 0.5)).clamp(least, 1 - least)
        new = 1 / (q * (1 - q)) - cavity
        new_shift = 1 / (1 - q) - cavity * centre
        share = damping * (new > weak)
        own, own_shift = own + share * (new - own), own_shift + share * (new_shift - own_shift)
        mean, covariance = _posterior(precision, shift, own, own_shift, jitters)
    return mean, covariance


def _posterior(
    precision: Tensor, shift: Tensor, own: Tensor, own_shift: Tensor, jitters: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    whole = precision.clone()
    whole.diagonal().add_(own)
    lower = cholesky(whole, jitters)
    return torch.cholesky_solve((shift + own_shift)[:, None], lower)[:, 0], torch.cholesky_inverse(lower)
