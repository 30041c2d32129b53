"""Reconstruction robustness of the Gaussian mechanism: how often an attack may come close, whoever attacks.

Let κ be the chance that the best guess from the prior alone comes within a distance of the true image. Whoever sees the
output of a mechanism that is no easier to tell from one without the image than N(0, 1) from N(µ, 1) comes as close with
probability at most (Balle, Cherubin & Hayes 2022, arXiv 2201.04845; Hayes et al. 2023, arXiv 2302.07225)

    γ ≤ Φ(Φ⁻¹(κ) + µ).

For DP-SGD with noise multiplier σ, sum of clipped gradients and batches in which the image surely is, one step has
µ = 1/σ and T steps µ = √T/σ; the adversary knows all other images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtr, ndtri


def reconstruction_bound(kappa: float, mu: float) -> float:
    """Φ(Φ⁻¹(κ) + µ).

    Args:
        kappa: What the prior alone achieves.
        mu: How well the mechanism's output tells the image's presence.

    Raises:
        ValueError: If κ is no probability, or µ negative.

    >>> reconstruction_bound(0.5, 0.0), round(reconstruction_bound(0.1, 1.0), 3)
    (0.5, 0.389)
    """
    if not 0 <= kappa <= 1 or not mu >= 0:
        raise ValueError(f"kappa must be a probability and mu not negative, got {kappa} and {mu}")
    return float(ndtr(ndtri(kappa) + mu)) if 0 < kappa < 1 else kappa if kappa == 1 else 0.0


def mu_of_dp_sgd(noise_multiplier: float, steps: int = 1) -> float:
    """µ of steps of DP-SGD without amplification by sampling: the image is in every batch.

    >>> mu_of_dp_sgd(2.0, 16)
    2.0
    """
    return math.sqrt(steps) / noise_multiplier


@dataclass(frozen=True)
class RobustnessPoint:
    """One distance.

    Attributes:
        psnr: In dB; closer than this counts as reconstructed.
        kappa: Share of the images that the best guess brings so close.
        measured: Share of the images that the attack brought so close.
        bound: The highest share that the mechanism allows.
        slack: Two standard errors of `measured` under the bound.
    """

    psnr: float
    kappa: float
    measured: float
    bound: float
    slack: float

    @property
    def kept(self) -> bool:
        """Whether the measured share is no higher than the bound, but for chance."""
        return self.measured <= self.bound + self.slack


def robustness_curve(
    guesses: Sequence[float], attacks: Sequence[float], mu: float, psnrs: Sequence[float] | None = None
) -> list[RobustnessPoint]:
    """What an attack achieved beside what the mechanism allows, distance by distance.

    Args:
        guesses: PSNR of the best guess without a gradient, of many images of the same kind.
        attacks: PSNR that the attack reached on each image that it was tried on.
        mu: Of the mechanism.
        psnrs: Distances in dB; every one that a guess or attack reached by default.

    Raises:
        ValueError: If there is no guess or no attack.

    >>> curve = robustness_curve([10.0, 12.0, 14.0, 16.0], [13.0, 11.0], mu=0.5, psnrs=[12.5])
    >>> curve[0].kappa, curve[0].measured, round(curve[0].bound, 2)
    (0.5, 0.5, 0.69)
    """
    if not guesses or not attacks:
        raise ValueError("a curve needs guesses and attacks")
    points = []
    for psnr in sorted({*guesses, *attacks}) if psnrs is None else psnrs:
        # A count of zero does not make the prior's chance zero: (k + 1)/(n + 1) is what the next image has.
        kappa = sum(g >= psnr for g in guesses)
        share = kappa / len(guesses) if kappa else 1 / (len(guesses) + 1)
        bound = reconstruction_bound(share, mu)
        slack = 2 * math.sqrt(bound * (1 - bound) / len(attacks))
        points.append(RobustnessPoint(psnr, share, sum(a >= psnr for a in attacks) / len(attacks), bound, slack))
    return points
