"""The linear problem under a prior with its Jacobian as a matrix.

With A the Jacobian in units of the noise, b = A (x* − µ), and N(µ, C) the Gaussian that stands for the prior at the
present picture, the most probable picture is

    x̂ = µ + C Aᵀ (A C Aᵀ + I)⁻¹ b           fewer equations than unknowns
      = µ + (Aᵀ A + C⁻¹)⁻¹ Aᵀ b              more

and the prior is asked anew there until the picture settles (iteratively reweighted least squares). Where `AᵀA` has low
rank, as behind max pooling, its pivoted Cholesky factor F, `Fᵀ F = Aᵀ A`, says as much in fewer equations.
"""

from dataclasses import dataclass
from math import prod

import scipy.linalg
import torch
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.measures.limit.linear_gaussian import DualSystem, PrimalSystem
from leakage_audit.measures.limit.linearized_gradient import Block, LinearizedGradient
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.priors import GREY, Prior
from leakage_audit.runtime import Budget


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


def bytes_needed(linear: LinearizedGradient) -> int:
    """Of the Jacobian and what is made of it: as many of each matrix as are alive at once."""
    m, n, shape, blocks = linear.rows, linear.columns, linear.shape, linear.block_rows
    wide, images = n // len(blocks), shape[0] // len(blocks)
    pixels = 6 * images * prod(shape[2:]) ** 2  # of the prior of one block
    if m > n:
        return 8 * (m * n + 5 * n**2 + pixels)
    largest = max(blocks)
    return 8 * (sum(blocks) * wide + 2 * largest * wide + 2 * largest**2 + 3 * m**2 + pixels)


def flops_needed(linear: LinearizedGradient) -> float:
    """Of a typical number of reweightings."""
    m, n, blocks, typical = linear.rows, linear.columns, linear.block_rows, linear.options.numerics.typical
    wide, pixels = n // len(blocks), prod(linear.shape[2:])
    if m > n:
        return 2.0 * m * n**2 + typical * n**3 / 3
    return typical * (sum(2.0 * r * wide * (pixels / 2 + r) for r in blocks) + m**3 / 3)


def solve_dense(
    linear: LinearizedGradient, truth: Tensor, prior: Prior, options: LimitOptions, budget: Budget
) -> Solved:
    """Solve with J as a matrix, from grey.

    Args:
        linear: J.
        truth: x*, `(n,)`.
        prior: What images are like, each by itself.
        options: Of the limit.
        budget: Time limit and progress report.
    """
    guess = torch.full_like(truth, GREY)
    if not linear.rows:
        spread = prior.local_gaussian(guess.reshape(linear.shape)).variance.sqrt()
        return Solved(guess, True, 0.0, "the gradient says nothing", spread, torch.zeros_like(guess), 0)
    try:
        blocks = linear.blocks(budget)
    except TimeoutError:
        return Solved(guess, False, float("nan"), "the time was up before the Jacobian was known")
    gram = None
    if linear.rows > linear.columns:
        (whole,) = blocks
        gram = whole.rows.T @ whole.rows
        low = _low_rank(gram, options)
        blocks = blocks if low is None else [Block(low)]
        primal = low is None
    else:
        primal = False
    system = (
        PrimalSystem(blocks[0].rows, gram, truth, options.numerics)
        if primal and gram is not None
        else DualSystem(blocks, truth.chunk(len(blocks)), options.numerics)
    )
    ended, solved = "the time was up", False
    for step in budget.steps(options.max_reweightings, "limit: reweighting"):
        parts = guess.reshape(len(blocks), -1, *linear.shape[1:])
        image = system.solve([prior.local_gaussian(part) for part in parts])
        change, guess = rms(image - guess), image
        if change < options.settled:
            solved, ended = True, f"settled after {step + 1} reweightings of the prior"
            break
    else:
        if not budget.stopped:
            ended = f"{options.max_reweightings} reweightings of the prior were not enough"
    if not budget.stopped:
        guess = system.refined()
    if not options.uncertainty or budget.exhausted:
        return Solved(guess, solved, 0.0 if solved else float("nan"), ended)
    posterior, by_noise = system.variances()
    found = _rank(blocks, gram, options.rank_tolerance)
    return Solved(guess, solved, 0.0, ended, posterior.sqrt(), by_noise, found)


def _low_rank(gram: Tensor, options: LimitOptions) -> Tensor | None:
    """F `(k, n)` of few rows with `FᵀF = gram` but for rounding, or None."""
    factor, pivots, k, _ = scipy.linalg.lapack.dpstrf(
        gram.cpu().numpy().T, lower=0, tol=options.numerics.lost * float(gram.diagonal().max())
    )
    if k > options.numerics.low_rank * len(gram):
        return None
    found = torch.empty(k, len(gram), dtype=gram.dtype, device=gram.device)
    found[:, torch.from_numpy(pivots.astype("int64") - 1)] = torch.from_numpy(factor[:k]).triu().to(gram)
    return found


def _rank(blocks: list[Block], gram: Tensor | None, tolerance: float) -> int:
    """Numerical rank from the smaller Gram matrix, by Cholesky with pivoting."""
    if gram is None:
        gram = torch.stack([b.lift(b.lift(b.rows @ b.rows.T).T) for b in blocks]).sum(0)
    matrix = gram.cpu().numpy()
    cut = tolerance**2 * float(matrix.diagonal().max())
    return int(scipy.linalg.lapack.dpstrf(matrix.T, lower=1, tol=cut, overwrite_a=0)[2])
