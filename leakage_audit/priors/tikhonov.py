"""No preference among images but for grey."""

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, LocalGaussian


class Tikhonov:
    """No preference but for grey: independent pixels around 0.5.

    Args:
        spread: Standard deviation of a pixel.
    """

    def __init__(self, spread: float = 0.25) -> None:
        self.spread = spread

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The same Gaussian everywhere."""
        variance = self.spread**2
        return LocalGaussian(
            mean=torch.full_like(image, GREY).flatten(),
            variance=torch.full_like(image, variance).flatten(),
            covariance=lambda rows: rows * variance,
            precision=lambda: torch.eye(image.numel(), dtype=image.dtype, device=image.device) / variance,
        )
