"""The linear problem under a prior with its Jacobian as a matrix.

With A the Jacobian in units of the noise, b = A (x* − µ), and N(µ, C) the Gaussian that stands for the prior at the
present picture, the most probable picture is

    x̂ = µ + C Aᵀ (A C Aᵀ + I)⁻¹ b           fewer equations than unknowns
      = µ + (Aᵀ A + C⁻¹)⁻¹ Aᵀ b              more

and the prior is asked anew there until the picture settles (iteratively reweighted least squares).
"""

from dataclasses import dataclass
from math import prod

import scipy.linalg
import torch
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.measures.limit.linearized_gradient import LinearizedGradient
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.priors import GREY, LocalGaussian, Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gaussian_update import JITTERS, cholesky, solve_cholesky

CORRECTIONS = 2  # of a solution by what it leaves of the normal equations, which lose half the digits (Björck 1987)
TYPICAL = 8  # reweightings that a picture takes to settle


@dataclass(frozen=True)
class Solved:
    """The most probable picture to first order.

    Attributes:
        image: x̂, `(n,)`.
        solved: Whether the linear problem was solved to the end and the reweighting settled.
        residual: Relative error of the last linear solve in the prior's norm; NaN where none was made.
        ended: One sentence on how it ended.
        std: Posterior standard deviation of each entry, `(n,)`, None where it was not computed.
        noise_variance: What the gradient's noise adds to each entry's squared error, `(n,)`, likewise.
        rank: Of J, likewise.
    """

    image: Tensor
    solved: bool
    residual: float
    ended: str
    std: Tensor | None = None
    noise_variance: Tensor | None = None
    rank: int | None = None


def bytes_needed(rows: int, shape: tuple[int, ...]) -> int:
    """Of the Jacobian and what is made of it: as many of each matrix as are alive at once."""
    n, pixels = prod(shape), prod(shape[2:])
    system = 2 * rows * n + 3 * rows**2 if rows <= n else rows * n + 5 * n**2
    return 8 * (system + 6 * shape[0] * pixels**2)


def flops_needed(rows: int, shape: tuple[int, ...]) -> float:
    """Of a typical number of reweightings."""
    n, pixels = prod(shape), prod(shape[2:])
    if rows <= n:
        return TYPICAL * (2.0 * rows * n * (pixels + rows) + rows**3 / 3)
    return 2.0 * rows * n**2 + TYPICAL * n**3 / 3


class LinearGaussian:
    """Equations `A (x − x*) = ξ`, ξ standard normal, under a Gaussian prior, factored.

    Args:
        jacobian: A, `(m, n)`.
        target: A (x* − µ).
        belief: The prior.
        gram: Aᵀ A where there are more equations than unknowns.

    Attributes:
        image: x̂, `(n,)`.
    """

    def __init__(self, jacobian: Tensor, target: Tensor, gaussian: LocalGaussian, gram: Tensor | None) -> None:
        self._gaussian, self._gram = gaussian, gram
        if gram is None:
            self._cross = gaussian.covariance(jacobian)  # A C
            inner = torch.addmm(torch.eye(len(jacobian)).to(jacobian), self._cross, jacobian.T)
            self._lower = cholesky(inner, (0.0, *JITTERS))
            self.image = gaussian.mean + self._cross.T @ solve_cholesky(self._lower, target)
            return
        precision = gaussian.precision_matrix()
        self._lower = cholesky(gram + precision, (0.0, *JITTERS))
        move = solve_cholesky(self._lower, jacobian.T @ target)
        for _ in range(CORRECTIONS):
            move += solve_cholesky(self._lower, jacobian.T @ (target - jacobian @ move) - precision @ move)
        self.image = gaussian.mean + move

    def variances(self) -> tuple[Tensor, Tensor]:
        """Posterior variance of each entry, and the share of it that the noise brings in, `(n,)` each.

        With K the matrix from noise to picture, the latter is the diagonal of K Kᵀ.
        """
        if self._gram is None:
            half = torch.linalg.solve_triangular(self._lower, self._cross, upper=False)
            posterior = self._gaussian.variance - half.square().sum(0)
            by_noise = torch.linalg.solve_triangular(self._lower.T, half, upper=True).square().sum(0)
        else:
            inverse = torch.cholesky_inverse(self._lower)
            posterior = inverse.diagonal()
            by_noise = (inverse @ self._gram * inverse).sum(1)
        return posterior.clamp_min(0), by_noise.clamp_min(0)


def solve_dense(
    linear: LinearizedGradient, truth: Tensor, prior: Prior, options: LimitOptions, budget: Budget
) -> Solved:
    """Solve with J as a matrix, from grey.

    Args:
        linear: J.
        truth: x*, `(n,)`.
        prior: What images are like.
        options: Of the limit.
        budget: Time limit and progress report.
    """
    guess = torch.full_like(truth, GREY)
    if not linear.rows:
        spread = prior.local_gaussian(guess.reshape(linear.shape)).variance.sqrt()
        return Solved(guess, True, 0.0, "the gradient says nothing", spread, torch.zeros_like(guess), 0)
    try:
        jacobian = linear.matrix(budget)
    except TimeoutError:
        return Solved(guess, False, float("nan"), "the time was up before the Jacobian was known")
    gram = jacobian.T @ jacobian if linear.rows > linear.columns else None
    system, ended, solved = None, "the time was up", False
    for step in budget.steps(options.max_reweightings, "limit: reweighting"):
        gaussian = prior.local_gaussian(guess.reshape(linear.shape))
        system = LinearGaussian(jacobian, jacobian @ (truth - gaussian.mean), gaussian, gram)
        change, guess = rms(system.image - guess), system.image
        if change < options.settled:
            solved, ended = True, f"settled after {step + 1} reweightings of the prior"
            break
    else:
        if not budget.stopped:
            ended = f"{options.max_reweightings} reweightings of the prior were not enough"
    if system is None or not options.uncertainty or budget.exhausted:
        return Solved(guess, solved, 0.0 if solved else float("nan"), ended)
    posterior, by_noise = system.variances()
    found = _rank(jacobian, gram, options.rank_tolerance)
    return Solved(guess, solved, 0.0, ended, posterior.sqrt(), by_noise, found)


def _rank(jacobian: Tensor, gram: Tensor | None, tolerance: float) -> int:
    """Numerical rank from the smaller Gram matrix, by Cholesky with pivoting."""
    matrix = (jacobian @ jacobian.T if gram is None else gram).cpu().numpy()
    cut = tolerance**2 * float(matrix.diagonal().max())
    return int(scipy.linalg.lapack.dpstrf(matrix.T, lower=1, tol=cut, overwrite_a=0)[2])
