"""The percentile filter of federated frameworks (Shokri & Shmatikov 2015), as NVIDIA FLARE ships it."""

import math

import torch

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.shared import Shared, below, beyond, cut_off, hidden


class PercentileFilter(Mechanism):
    """Put entries below a percentile of all magnitudes to zero, and cut the others off at ±γ.

    The defaults are those of NVIDIA FLARE's `PercentilePrivacy`: nine entries in ten stay, and those of magnitude up
    to γ exactly as they were.

    Args:
        percentile: Of the magnitudes, 0 to 100, below which entries are put to zero.
        gamma: Largest magnitude; infinite cuts none off.

    Raises:
        ValueError: If a setting is out of its range.

    >>> shared = Shared.of({"w": torch.tensor([1.0, -3.0, 2.0, 0.5])})
    >>> PercentileFilter(50, gamma=2.5)(shared, torch.Generator()).gradients["w"]
    tensor([ 0.0000, -2.5000,  2.0000,  0.0000])
    """

    is_noise = False

    def __init__(self, percentile: float = 10.0, gamma: float = 0.01) -> None:
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be at least 0 and at most 100, got {percentile}")
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        self.percentile, self.gamma = percentile, gamma

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Filter."""
        sizes = torch.cat([g.flatten().double().abs() for g in shared.gradients.values()])
        cut = percentile_of(sizes, self.percentile)
        found, error, shift, known = {}, {}, {}, {}
        for name, g in shared.gradients.items():
            small, large = g.double().abs() < cut, g.double().abs() > self.gamma
            found[name] = g.masked_fill(small, 0)
            if math.isfinite(self.gamma):
                found[name] = found[name].clamp(-self.gamma, self.gamma)
            shift[name], spread = cut_off(g, found[name], large & ~small)
            error[name] = hidden(g, found[name], small) + spread
            known[name] = beyond(g, found[name], large & ~small, shared.error[name], cut)
            known[name] = known[name].both(below(found[name], small, shared.error[name], cut))
        return shared.changed(found, error, shift, known)


def percentile_of(values: torch.Tensor, percentile: float) -> float:
    """By linear interpolation between neighbours, at any size (`torch.quantile` takes 16 million)."""
    ordered = values.sort().values
    place = (len(ordered) - 1) * percentile / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
