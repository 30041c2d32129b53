"""No preference among images but for grey (docs/method.md, section 6.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, LocalGaussian


class Tikhonov:
    """No preference but for grey: independent pixels around 0.5.

    Args:
        spread: Standard deviation of a pixel; a photograph's by default.

    Raises:
        ValueError: If it is not positive.

    >>> gaussian = Tikhonov(spread=0.5).local_gaussian(torch.ones(1, 1, 1, 2))
    >>> gaussian.mean, gaussian.gradient
    (tensor([0.5000, 0.5000]), tensor([2., 2.]))
    """

    def __init__(self, spread: float = 0.25) -> None:
        if not spread > 0:
            raise ValueError(f"spread must be positive, got {spread}")
        self.spread = spread

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The same Gaussian everywhere."""
        return _Isotropic(image, self.spread**2)


class _Isotropic(LocalGaussian):
    """Grey, with one variance for all."""

    def __init__(self, image: Tensor, variance: float) -> None:
        super().__init__(image)
        self._variance = variance

    @property
    def mean(self) -> Tensor:
        return torch.full_like(self.image, GREY).flatten()

    def precision(self, v: Tensor) -> Tensor:
        return v / self._variance

    def preconditioner(self, data: float) -> Callable[[Tensor], Tensor]:
        return lambda v: v / (1 / self._variance + data)

    def precision_matrix(self) -> Tensor:
        return torch.diag(1 / self.variance)

    def covariance(self, rows: Tensor) -> Tensor:
        return rows * self._variance

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.image, self._variance).flatten()
