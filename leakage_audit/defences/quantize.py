"""k-bit quantisation (Alistarh et al. 2017, "QSGD", with a uniform grid)."""

import math

import torch

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.shared import Shared
from leakage_audit.interval import Interval


class Quantize(Mechanism):
    """Round each entry to one of 2^k even steps between the parameter's least and largest value.

    Rounded to the nearest step an entry lies in an interval of one step Δ: an error of Δ/√12. Rounded at random to
    either neighbour, without bias, it lies within Δ on both sides: Δ/√6 on average.

    Args:
        bits: k.
        stochastic: Whether to round at random.

    Raises:
        ValueError: If bits are not from 1 to 16.

    >>> shared = Quantize(1)(Shared.of({"w": torch.tensor([0.0, 0.2, 0.9, 1.0])}), torch.Generator())
    >>> shared.gradients["w"]
    tensor([0., 0., 1., 1.])
    """

    is_noise = False

    def __init__(self, bits: int = 8, stochastic: bool = False) -> None:
        if not 1 <= bits <= 16 or bits != int(bits):
            raise ValueError(f"bits must be a whole number from 1 to 16, got {bits}")
        self.bits, self.stochastic = int(bits), stochastic

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Quantise."""
        found, error, known = {}, {}, {}
        for name, g in shared.gradients.items():
            low, step = float(g.min()), float(g.max() - g.min()) / (2**self.bits - 1)
            place = (g.double() - low) / step if step > 0 else torch.zeros_like(g, dtype=torch.float64)
            if self.stochastic:
                place = (place + torch.rand(g.shape, generator=generator, dtype=torch.float64).to(place)).floor()
            found[name] = (low + step * place.round()).to(g) if step > 0 else g
            error[name] = torch.full_like(g, step / math.sqrt(6 if self.stochastic else 12))
            if not self.stochastic and step > 0:  # the least and the largest value are shared as they are
                lower, upper = found[name] - step / 2, found[name] + step / 2
                known[name] = Interval(lower.clamp_min(low), upper.clamp_max(float(g.max())), shared.error[name])
        return shared.changed(found, error, intervals=known)
