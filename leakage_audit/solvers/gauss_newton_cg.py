"""The Gauss-Newton step for images too large for a Jacobian: conjugate gradients on its normal equations.

    (Jᵀ N⁻¹ J + P) d = −Jᵀ N⁻¹ r − P (x − µ)

Products with J and Jᵀ are one forward and one reverse pass each; the preconditioner is P with its weights levelled
out plus the average of Jᵀ N⁻¹ J, inverted by a cosine transform. Each block of equations is trusted to the size of its
own residual, so that blocks which jump do not hold the others back; on kinked equations that are cheap enough, r and J
are averages over where the image may be (`averages`).
"""

import torch
from torch import Tensor

from leakage_audit.equations.base import Equations, rms
from leakage_audit.priors import GREY, TotalVariation
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import (
    FLOOR,
    SETTLED,
    TREMBLING,
    WITHIN,
    Solution,
    backtrack,
    initial_guess,
    weighted_residual,
)
from leakage_audit.solvers.statistical_linearization import (
    MatrixFreeModel,
    PointLinearization,
    StatisticalLinearization,
)

SOLVED = 1e-3  # residual (root mean square, targets being 1) below which the equations count as solved
TRUST = 0.3  # each block is trusted to this share of its residual
PRODUCTS = 100  # most products with J and Jᵀ a step
EXACTNESS = 1e-3  # the normal equations are solved to this share of their right-hand side
ROUGHLY = (40, 1e-2)  # the same two for averages, which are no more exact than that
PATIENCE = 2  # steps in a row that gain less than a hundredth before the iteration stops


def gauss_newton_cg(
    equations: Equations,
    prior: TotalVariation,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
) -> Solution:
    """As `gauss_newton`, with neither a Jacobian nor what follows from one (rank and standard deviation).

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that passes at several images at once may take.
        budget: Time limit and progress report.
        begin: Where to begin, `(B, C, H, W)`; grey by default.

    Raises:
        FloatingPointError: If the equations are not finite at grey.
    """
    image = initial_guess(equations) if begin is None else begin.flatten()
    floor = equations.noise.clamp_min(FLOOR)
    solved = max(SOLVED, 3 * rms(floor))
    r = equations.residual(image)
    if not torch.isfinite(r).all():
        raise FloatingPointError("the network's own gradients are not finite: do its weights hold NaN?")
    averaged = StatisticalLinearization.affordable(equations, memory) and equations.within(budget).kinked
    local_gaussian = StatisticalLinearization(equations) if averaged else PointLinearization(equations)
    best, ended, converged, steps, idle = (image, r), "the time was up", False, 0, 0
    for _ in budget.steps(max_steps, "Joint"):
        steps += 1
        near = local_gaussian(image, r)
        own = torch.cat([b.square().mean().expand_as(b) for b in r.split(equations.sizes)])
        open_still = floor**2 + near.variance
        noise = open_still + TRUST**2 * own
        effort = ROUGHLY if averaged else (PRODUCTS, EXACTNESS)
        perturbation = _step(equations, prior, image, near, noise, budget, *effort)
        if averaged:  # an average knows of the kinks ahead; F itself may rise on the way
            new, new_r = image + perturbation, equations.residual(image + perturbation)
        else:
            _, new, new_r = backtrack(equations, image, r, image + perturbation, noise, solved)
        change, gain = rms(new - image), weighted_residual(new_r, noise) / weighted_residual(r, noise)
        image, r = new, new_r
        if weighted_residual(r, noise) <= weighted_residual(best[1], noise):
            best = image, r
        settled = change < (TREMBLING if averaged else SETTLED)
        explained = averaged and rms(r / open_still.sqrt()) <= WITHIN
        if settled and (explained or rms(r) <= solved):
            best = image, r
            ended, converged = "the image settled with its equations solved", True
            break
        idle = idle + 1 if gain > 0.99 and not averaged else 0
        if idle >= PATIENCE or change < SETTLED / 10 or (averaged and settled):
            ended = f"the residual stalled at {rms(best[1]):.2g} of the targets' size"
            break
    else:
        if steps == max_steps:
            ended = f"{max_steps} steps were not enough"
    return Solution(*best, torch.full_like(image, torch.nan), None, steps, converged, ended)


def _step(
    equations: Equations,
    prior: TotalVariation,
    image: Tensor,
    near: MatrixFreeModel,
    noise: Tensor,
    budget: Budget,
    products: int,
    exactness: float,
) -> Tensor:
    """d, by preconditioned conjugate gradients, stopped early when the budget is spent."""
    precision_operator = prior.precision_operator(image.reshape(equations.shape))

    def normal(v: Tensor) -> Tensor:
        return near.vjp(near.jvp(v) / noise) + precision_operator(v.reshape(equations.shape)).flatten()

    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(len(image), generator=generator, dtype=image.dtype).to(image.device)
    data = float((near.jvp(probe).square() / noise).sum()) / len(image)

    def precondition(v: Tensor) -> Tensor:
        return precision_operator.precondition(v.reshape(equations.shape), data).flatten()

    rest = -near.vjp(near.r / noise) - precision_operator((image - GREY).reshape(equations.shape)).flatten()
    d, goal = torch.zeros_like(image), exactness * float(rest.norm())
    z = precondition(rest)
    p, rz = z, rest @ z
    for _ in range(products):
        if float(rest.norm()) <= goal or budget.exhausted:
            break
        curved = normal(p)
        alpha = rz / (p @ curved)
        d, rest = d + alpha * p, rest - alpha * curved
        z = precondition(rest)
        rz, before = rest @ z, rz
        p = z + rz / before * p
    return d
