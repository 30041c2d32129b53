"""One Gauss-Newton step on noisy equations under a Gaussian prior, and what is left uncertain after it.

With F(x + d) ≈ r + J d, noise covariance N (diagonal) and prior N(µ, C), the most probable image is (docs/method.md,
section 5.8, (M40) to (M42))

    x⁺ = µ + C Jᵀ (J C Jᵀ + N)⁻¹ (J (x − µ) − r)           fewer equations than unknowns
       = µ + (Jᵀ N⁻¹ J + C⁻¹)⁻¹ Jᵀ N⁻¹ (J (x − µ) − r)     more
"""

import scipy.linalg
import torch
from torch import Tensor

from leakage_audit.priors import LocalGaussian
from leakage_audit.solvers.options import SolverOptions

JITTERS = SolverOptions.jitters


class GaussianUpdate:
    """The linear-Gaussian model at one image, factored.

    Args:
        image: Where F was linearised, `(n,)`.
        r: F there, `(m,)`.
        jacobian: `(m, n)`.
        noise: Variance of each equation, `(m,)`.
        gaussian: The prior around the image.
        jitters: See `cholesky`.

    Attributes:
        origin: Where F was linearised.
        image: The most probable image, `(n,)`.
    """

    def __init__(
        self,
        image: Tensor,
        r: Tensor,
        jacobian: Tensor,
        noise: Tensor,
        gaussian: LocalGaussian,
        jitters: tuple[float, ...] = JITTERS,
    ) -> None:
        self._gaussian, self._jacobian, self._noise = gaussian, jacobian, noise
        self.origin = image
        self.dual = jacobian.shape[0] <= jacobian.shape[1]
        right = jacobian @ (image - gaussian.mean) - r
        if self.dual:
            self._cross = gaussian.covariance(jacobian)  # J C, (m, n)
            gram = self._cross @ jacobian.T
            gram.diagonal().add_(noise)
            self._lower = cholesky(gram, jitters)
            self.image = gaussian.mean + self._cross.T @ solve_cholesky(self._lower, right)
        else:
            weighted = jacobian / noise[:, None]
            hessian = jacobian.T @ weighted
            hessian += gaussian.precision_matrix()
            self._lower = cholesky(hessian, jitters)
            self.image = gaussian.mean + solve_cholesky(self._lower, weighted.T @ right)

    def std(self) -> Tensor:
        """Standard deviation of each entry of the image given the equations, `(n,)`."""
        if self.dual:
            known = torch.linalg.solve_triangular(self._lower, self._cross, upper=False).square().sum(0)
            variance = self._gaussian.variance - known
        else:
            variance = torch.cholesky_inverse(self._lower).diagonal()
        return variance.clamp_min(0).sqrt()

    def expected_squares(self) -> Tensor:
        """Expected square of each equation's residual at `image`, in units of its variance, `(m,)`.

        The diagonal of `N (J C Jᵀ + N)⁻¹`. Its sum is the number of equations less the effective number of parameters
        (MacKay 1992).
        """
        if self.dual:
            return self._noise * torch.cholesky_inverse(self._lower).diagonal()
        known = torch.linalg.solve_triangular(self._lower, self._jacobian.T, upper=False).square().sum(0)
        return (1 - known / self._noise).clamp_min(0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """How images drawn given the equations differ from the most probable one, `(count, n)`.

        With fewer equations than unknowns a draw from the prior is moved to where it meets a draw of the equations'
        errors (Matheron's rule).
        """
        normal = torch.randn(self.image.numel(), count, generator=generator, dtype=torch.float64).to(self.image)
        if not self.dual:
            return torch.linalg.solve_triangular(self._lower.T, normal, upper=True).T
        lower = torch.linalg.cholesky(self._gaussian.precision_matrix())
        prior = torch.linalg.solve_triangular(lower.T, normal, upper=True).T
        errors = torch.randn(count, len(self._noise), generator=generator, dtype=torch.float64).to(self.image)
        missed = prior @ self._jacobian.T + errors * self._noise.sqrt()
        return prior - torch.cholesky_solve(missed.T, self._lower).T @ self._cross


def rank(jacobian: Tensor, tolerance: float) -> int:
    """Numerical rank from the smaller Gram matrix, by Cholesky with pivoting.

    Args:
        jacobian: `(m, n)`.
        tolerance: Singular values below this share of the largest count as zero.
    """
    tall = jacobian.shape[0] > jacobian.shape[1]
    gram = (jacobian.T @ jacobian if tall else jacobian @ jacobian.T).cpu().numpy()
    cut = tolerance**2 * float(gram.diagonal().max(initial=0.0))
    return int(scipy.linalg.lapack.dpstrf(gram.T, lower=1, tol=cut, overwrite_a=1)[2])


def step_flops(equations: int, unknowns: int) -> float:
    """Operations of an update and of draws from what it leaves uncertain, which factor a matrix between the unknowns.

    >>> step_flops(10, 100)
    1020000.0
    """
    return 2.0 * equations * unknowns * min(equations, unknowns) + float(unknowns) ** 3


def solve_cholesky(lower: Tensor, right: Tensor) -> Tensor:
    """x of `L Lᵀ x = right`, `(n,)`, for a Cholesky factor L `(n, n)`."""
    return torch.cholesky_solve(right[:, None], lower)[:, 0]


def cholesky(matrix: Tensor, jitters: tuple[float, ...]) -> Tensor:
    """Cholesky factor of a positive matrix that rounding may have pushed over the edge.

    Args:
        matrix: `(n, n)`; changed in place.
        jitters: Added to the diagonal one after the other, as shares of its mean, until there is a factor.

    Raises:
        FloatingPointError: If there is none after the last.
    """
    size = matrix.diagonal().mean()
    for jitter in jitters:
        matrix.diagonal().add_(jitter * size)
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return lower
    raise FloatingPointError("the normal equations are not positive: do gradients or weights hold NaN?")
