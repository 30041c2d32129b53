"""What an attacker believes about images before the gradients speak: the protocol of a prior.

A prior tells, at any image, the Gaussian that stands for it there: for a quadratic prior its own mean and precision,
for total variation the quadratic that touches it from above (Vogel & Oman 1996, lagged diffusivity). Solving with
that Gaussian and asking again is the classical majorise-minimise iteration, so one solver serves every prior. Adding
one is one file with a class that has `around`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

GREY = 0.5  # the middle of an image's values


@dataclass(frozen=True)
class LocalGaussian:
    """A Gaussian over images, flattened to n numbers.

    Attributes:
        mean: `(n,)`.
        covariance: Multiplies rows `(m, n)` by the covariance matrix.
        precision: The inverse of the covariance as a dense matrix `(n, n)`, made when called.
        variance: Diagonal of the covariance, `(n,)`.
    """

    mean: Tensor
    variance: Tensor
    covariance: Callable[[Tensor], Tensor]
    precision: Callable[[], Tensor]


class Prior(Protocol):
    """What an attack needs of a prior."""

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The Gaussian that stands for the prior at `image (B, C, H, W)`, whose values lie in about [0, 1]."""
        ...
