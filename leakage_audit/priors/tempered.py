"""A prior's Gaussian at another weight."""

from torch import Tensor

from leakage_audit.priors.base import LocalGaussian


class Tempered(LocalGaussian):
    """A Gaussian of the same mean with its precision multiplied by a weight.

    Args:
        gaussian: The one at weight 1.
        weight: Above zero.

    >>> import torch
    >>> from leakage_audit.priors import TotalVariation
    >>> image = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    >>> whole = TotalVariation(brightness=0.1).local_gaussian(image)
    >>> half, v = Tempered(whole, 0.5), torch.ones(1, 4, dtype=torch.float64)
    >>> torch.allclose(half.covariance(v), 2 * whole.covariance(v)), torch.allclose(half.variance, 2 * whole.variance)
    (True, True)
    """

    def __init__(self, gaussian: LocalGaussian, weight: float) -> None:
        super().__init__(gaussian.image)
        self._gaussian, self._weight = gaussian, weight

    @property
    def mean(self) -> Tensor:
        """µ, `(n,)`."""
        return self._gaussian.mean

    def precision(self, v: Tensor) -> Tensor:
        """P times `v (n,)`."""
        return self._weight * self._gaussian.precision(v)

    def precision_matrix(self) -> Tensor:
        """P as a dense matrix `(n, n)`."""
        return self._weight * self._gaussian.precision_matrix()

    def covariance(self, rows: Tensor) -> Tensor:
        """`rows (m, n)` times P⁻¹."""
        return self._gaussian.covariance(rows) / self._weight

    @property
    def variance(self) -> Tensor:
        """Diagonal of P⁻¹, `(n,)`."""
        return self._gaussian.variance / self._weight
