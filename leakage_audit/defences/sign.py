"""Signs only (Bernstein et al. 2018, "signSGD")."""

import math

import torch

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.shared import Shared
from leakage_audit.interval import Interval


class Sign(Mechanism):
    """Share each entry's sign, times the parameter's mean magnitude.

    The magnitudes that were lost count as those of a Gaussian with that mean: `|g|` has then mean m and standard
    deviation m·√(π/2 − 1). What is known of each entry is its sign, and of all of a parameter's their mean magnitude.

    Args:
        scaled: Whether the mean magnitude is shared; without it each entry is −1, 0 or 1, and who knows it is told the
            scale all the same, the worst case.

    >>> shared = Sign()(Shared.of({"w": torch.tensor([1.0, -3.0])}), torch.Generator())
    >>> shared.gradients["w"]
    tensor([ 2., -2.])
    """

    is_noise = False

    def __init__(self, scaled: bool = True) -> None:
        self.scaled = scaled

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Take the signs."""
        means = {k: float(g.abs().mean()) for k, g in shared.gradients.items()}
        signs = {k: g.sign() * means[k] for k, g in shared.gradients.items()}
        spread = math.sqrt(math.pi / 2 - 1)
        error = {k: torch.full_like(g, spread * means[k]) for k, g in signs.items()}
        known = {
            k: Interval(
                torch.where(s > 0, 0.0, -math.inf), torch.where(s < 0, 0.0, math.inf), shared.error[k], s.sign(),
                means[k] * s.numel(),
            )
            for k, s in signs.items()
        }  # fmt: skip
        found = shared.changed(signs, error, intervals=known)
        return found if self.scaled else found.scaled({k: 1 / m if m > 0 else 1.0 for k, m in means.items()})
