"""Noise: independent, of the same size on every entry."""

import math

import torch

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.shared import Shared


class GaussianNoise(Mechanism):
    """Add Gaussian noise to every entry.

    Args:
        std: Its standard deviation, in the gradient's units; 0 does nothing.

    Raises:
        ValueError: If it is negative or not finite.

    >>> shared = GaussianNoise(0.5)(Shared.of({"w": torch.zeros(20000)}), torch.Generator().manual_seed(0))
    >>> round(float(shared.gradients["w"].std()), 1), float(shared.error["w"][0])
    (0.5, 0.5)
    """

    def __init__(self, std: float = 0.0) -> None:
        if not 0 <= std < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {std}")
        self.std = std

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Add it."""
        if self.std == 0:
            return shared
        noisy = {k: g + self.std * torch.randn(g.shape, generator=generator).to(g) for k, g in shared.gradients.items()}
        return shared.changed(noisy, {k: torch.full_like(g, self.std) for k, g in noisy.items()})


class LaplaceNoise(Mechanism):
    """Add Laplace noise to every entry.

    Args:
        scale: Its scale b, in the gradient's units; the standard deviation is √2·b. 0 does nothing.

    Raises:
        ValueError: If it is negative or not finite.

    >>> shared = LaplaceNoise(0.5)(Shared.of({"w": torch.zeros(20000)}), torch.Generator().manual_seed(0))
    >>> round(float(shared.gradients["w"].abs().mean()), 1)
    0.5
    """

    def __init__(self, scale: float = 0.0) -> None:
        if not 0 <= scale < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {scale}")
        self.scale = scale

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Add it."""
        if self.scale == 0:
            return shared
        noisy = {k: g + self.scale * laplace(g, generator) for k, g in shared.gradients.items()}
        return shared.changed(noisy, {k: torch.full_like(g, math.sqrt(2) * self.scale) for k, g in noisy.items()})


def laplace(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Laplace numbers of scale 1, shaped like a tensor: the difference of two exponential ones."""
    pairs = torch.empty(2, *like.shape, dtype=torch.float64).exponential_(generator=generator)
    return (pairs[0] - pairs[1]).to(like)
