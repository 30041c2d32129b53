"""No preference among images but for grey."""

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, Belief


class MinimumNorm:
    """No preference but for grey: independent pixels around 0.5.

    Args:
        spread: Standard deviation of a pixel.
    """

    def __init__(self, spread: float = 0.25) -> None:
        self.spread = spread

    def around(self, image: Tensor) -> Belief:
        """The same Gaussian everywhere."""
        variance = self.spread**2
        return Belief(
            mean=torch.full_like(image, GREY).flatten(),
            variance=torch.full_like(image, variance).flatten(),
            covariance=lambda rows: rows * variance,
            precision=lambda: torch.eye(image.numel(), dtype=image.dtype, device=image.device) / variance,
        )
