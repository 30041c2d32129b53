"""What an attacker believes about images before the gradients speak: the protocol of a prior.

A prior tells, at any image, the Gaussian that stands for it there: for a quadratic prior its own mean and precision,
for total variation the quadratic that touches it from above (Vogel & Oman 1996, lagged diffusivity). Solving with
that Gaussian and asking again is the classical majorise-minimise iteration (docs/method.md, section 5.9, (M43)), so
one solver serves every prior. Adding one is one file with a class that has `local_gaussian`; its Gaussian needs a mean
and a product with its precision, and whatever of the rest it knows better than `LocalGaussian` does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

GREY = 0.5  # the middle of an image's values


class LocalGaussian(ABC):
    """A Gaussian over images, flattened to n numbers: N(µ, P⁻¹).

    Solvers without a Jacobian ask for `gradient`, `precision` and `preconditioner`, at any size; those with one for
    `mean`, `covariance`, `variance` and `precision_matrix`, which by default are made of the matrix `(n, n)`.

    Args:
        image: Where it stands for the prior, `(B, C, H, W)`.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """µ, `(n,)`."""

    @abstractmethod
    def precision(self, v: Tensor) -> Tensor:
        """P times `v (n,)`."""

    @cached_property
    def gradient(self) -> Tensor:
        """Of the negative log density at `image`, P (image − µ), `(n,)`."""
        return self.precision(self.image.flatten() - self.mean)

    def preconditioner(self, data: float) -> Callable[[Tensor], Tensor]:
        """An approximation of `(P + data·I)⁻¹`, symmetric and positive, `(n,)` to `(n,)`; by default a number's."""
        scale = 1 / (self.level + data)
        return lambda v: scale * v

    @cached_property
    def level(self) -> float:
        """Mean of P's diagonal, estimated by one product with random signs."""
        n = self.image.numel()
        signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(0)).to(self.image) * 2 - 1
        return float(signs @ self.precision(signs)) / n

    def precision_matrix(self) -> Tensor:
        """P as a dense matrix `(n, n)`."""
        eye = torch.eye(self.image.numel(), dtype=self.image.dtype, device=self.image.device)
        return torch.stack([self.precision(row) for row in eye])

    def covariance(self, rows: Tensor) -> Tensor:
        """`rows (m, n)` times P⁻¹."""
        return rows @ self._inverse

    def covariance_times(self, v: Tensor) -> Tensor:
        """P⁻¹ times `v (n,)`."""
        return torch.cholesky_solve(v[:, None], self._lower)[:, 0]

    def times_root(self, rows: Tensor) -> Tensor:
        """`rows (m, n)` times a Q with `Q Qᵀ = P⁻¹`."""
        return torch.linalg.solve_triangular(self._lower.T, rows, upper=True, left=False)

    @property
    def variance(self) -> Tensor:
        """Diagonal of P⁻¹, `(n,)`."""
        return self._inverse.diagonal()

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.cholesky_inverse(self._lower)

    @cached_property
    def _lower(self) -> Tensor:
        return torch.linalg.cholesky(self.precision_matrix())


@runtime_checkable
class Prior(Protocol):
    """What an attack needs of a prior."""

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The Gaussian that stands for the prior at `image (B, C, H, W)`, whose values lie in about [0, 1]."""
        ...


@runtime_checkable
class WeighsNoise(Prior, Protocol):
    """A prior that believes less where a gradient's noise is known, and beliefs decide what it hides."""

    def under_noise(self) -> Prior:
        """What then stands in its place."""
        ...


def under_noise(prior: Prior) -> Prior:
    """The prior as who knows a gradient's noise holds it."""
    return prior.under_noise() if isinstance(prior, WeighsNoise) else prior
