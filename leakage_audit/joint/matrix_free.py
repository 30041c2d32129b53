"""The Gauss-Newton step for images too large for a Jacobian: conjugate gradients on its normal equations.

    (Jᵀ N⁻¹ J + P) d = −Jᵀ N⁻¹ r − P (x − µ)

Products with J and Jᵀ are one forward and one reverse pass each; the preconditioner is P with its weights levelled
out plus the average of Jᵀ N⁻¹ J, inverted by a cosine transform. Each block of equations is trusted to the size of its
own residual, so that blocks which jump do not hold the others back.
"""

import torch
from torch import Tensor
from torch.func import vjp

from leakage_audit.budget import Budget
from leakage_audit.joint.equations import Equations
from leakage_audit.joint.solver import FLOOR, SETTLED, Solution, backtrack, rms, start
from leakage_audit.priors import GREY, Variation

SOLVED = 1e-3  # residual (root mean square, targets being 1) below which the equations count as solved
TRUST = 0.3  # each block is trusted to this share of its residual
PRODUCTS = 40  # most products with J and Jᵀ a step
EXACTNESS = 1e-2  # the normal equations are solved to this share of their right-hand side
PATIENCE = 2  # steps in a row that gain less than a hundredth before the iteration stops


def solve_free(
    equations: Equations, prior: Variation, max_steps: int, budget: Budget, begin: Tensor | None = None
) -> Solution:
    """As `solver.solve`, with neither a Jacobian nor what follows from one (rank and standard deviation).

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        budget: Time limit and progress report.
        begin: Where to begin, `(B, C, H, W)`; grey by default.

    Raises:
        FloatingPointError: If the equations are not finite at grey.
    """
    image = start(equations) if begin is None else begin.flatten()
    floor = equations.noise.clamp_min(FLOOR)
    solved = max(SOLVED, 3 * rms(floor))
    r = equations.residual(image)
    if not torch.isfinite(r).all():
        raise FloatingPointError("the network's own gradients are not finite: do its weights hold NaN?")
    ended, converged, steps, idle = "the time was up", False, 0, 0
    for _ in budget.steps(max_steps, "Joint"):
        steps += 1
        own = torch.cat([b.square().mean().expand_as(b) for b in r.split(equations.sizes)])
        noise = floor**2 + TRUST**2 * own
        move = _step(equations, prior, image, r, noise, budget)
        _, new, new_r = backtrack(equations, image, r, image + move, noise, solved)
        change, gain = rms(new - image), float((new_r.square() / noise).sum() / (r.square() / noise).sum())
        image, r = new, new_r
        if change < SETTLED and rms(r) <= solved:
            ended, converged = "the image settled with its equations solved", True
            break
        idle = idle + 1 if gain > 0.99 else 0
        if idle >= PATIENCE or change < SETTLED / 10:
            ended = f"the residual stalled at {rms(r):.2g} of the targets' size"
            break
    else:
        if steps == max_steps:
            ended = f"{max_steps} steps were not enough"
    return Solution(image, r, torch.full_like(image, torch.nan), None, steps, converged, ended)


def _step(equations: Equations, prior: Variation, image: Tensor, r: Tensor, noise: Tensor, budget: Budget) -> Tensor:
    """d, by preconditioned conjugate gradients, stopped early when the budget is spent."""
    _, pull = vjp(equations.residual, image)[:2]
    stiffness = prior.stiffness(image.reshape(equations.shape))

    def normal(v: Tensor) -> Tensor:
        return pull(equations.push(image, v) / noise)[0] + stiffness(v.reshape(equations.shape)).flatten()

    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(len(image), generator=generator, dtype=image.dtype).to(image.device)
    data = float((equations.push(image, probe).square() / noise).sum()) / len(image)

    def precondition(v: Tensor) -> Tensor:
        return stiffness.smooth_inverse(v.reshape(equations.shape), data).flatten()

    rest = -pull(r / noise)[0] - stiffness((image - GREY).reshape(equations.shape)).flatten()
    d, goal = torch.zeros_like(image), EXACTNESS * float(rest.norm())
    z = precondition(rest)
    p, rz = z, rest @ z
    for _ in range(PRODUCTS):
        if float(rest.norm()) <= goal or budget.exhausted:
            break
        curved = normal(p)
        alpha = rz / (p @ curved)
        d, rest = d + alpha * p, rest - alpha * curved
        z = precondition(rest)
        rz, before = rest @ z, rz
        p = z + rz / before * p
    return d
