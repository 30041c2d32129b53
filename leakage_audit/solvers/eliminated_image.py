"""Linear equations in an image and in other unknowns, the image eliminated.

With r + J (x' − x) + A (a' − a) = noise and a Gaussian prior N(µ, C) on the image, what the equations say of a alone is
a Gaussian with the Schur complement for its precision, and the image follows from it (docs/method/joint.md, section
5.16, (M117)).
"""

import torch
from torch import Tensor

from leakage_audit.priors import LocalGaussian
from leakage_audit.solvers.gaussian_update import cholesky


class EliminatedImage:
    """What linear equations say of the other unknowns, and of the image given them.

    Args:
        right: J x + A a − r where they were linearised, `(m,)`.
        jacobian: J, `(m, n)`.
        others: A, `(m, k)`.
        noise: Variance of each equation, `(m,)`.
        gaussian: The prior around the image.
        jitters: See `cholesky`.

    Attributes:
        precision: Of the likelihood exp(−aᵀ P a/2 + sᵀ a) of the others, `(k, k)`.
        shift: s, `(k,)`.
    """

    def __init__(
        self, right: Tensor, jacobian: Tensor, others: Tensor, noise: Tensor, gaussian: LocalGaussian,
        jitters: tuple[float, ...],
    ) -> None:  # fmt: skip
        self._mean = gaussian.mean
        both = torch.cat([others, (right - jacobian @ self._mean)[:, None]], 1)
        weighted = jacobian / noise[:, None]
        hessian = jacobian.T @ weighted + gaussian.precision_matrix()
        self._lower = cholesky(hessian, jitters)
        self._to_image = torch.cholesky_solve(weighted.T @ both, self._lower)
        solved = (both - jacobian @ self._to_image) / noise[:, None]
        schur = others.T @ solved
        self.precision, self.shift = (schur[:, :-1] + schur[:, :-1].T) / 2, schur[:, -1]

    def image(self, mean: Tensor) -> Tensor:
        """The most probable image given the others' `mean (k,)`, `(n,)`."""
        return self._mean + self._to_image[:, -1] - self._to_image[:, :-1] @ mean

    def std(self, covariance: Tensor) -> Tensor:
        """Standard deviation of each entry of the image, the others' being uncertain by `covariance (k, k)`, `(n,)`."""
        alone = torch.cholesky_inverse(self._lower).diagonal()
        moved = self._to_image[:, :-1]
        return (alone + ((moved @ covariance) * moved).sum(1)).clamp_min(0).sqrt()
