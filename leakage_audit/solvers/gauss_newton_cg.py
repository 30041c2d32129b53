"""The Gauss-Newton step for images too large for a Jacobian: conjugate gradients on its normal equations.

    (Jᵀ N⁻¹ J + P) d = −Jᵀ N⁻¹ r − P (x − µ)

Products with J and Jᵀ are one forward and one reverse pass each; the preconditioner is the prior's, for P plus the
average of Jᵀ N⁻¹ J. Each block of equations is trusted to the size of its own residual, so that blocks which jump do
not hold the others back, and better where it turned out to be straight; on kinked equations that are cheap enough, r
and J are averages over where the image may be (`statistical_linearization`). See docs/method.md, section 5.14, (M47).
"""

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.equations.base import EVALUATION, PRODUCT, Equations, rms
from leakage_audit.equations.differentiation import load_forward_mode
from leakage_audit.priors import LocalGaussian, Prior
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.gauss_newton import Solution, backtrack, start
from leakage_audit.solvers.options import CGOptions, SolverOptions
from leakage_audit.solvers.statistical_linearization import (
    MatrixFreeModel,
    PointLinearization,
    StatisticalLinearization,
)
from leakage_audit.solvers.stopping import StoppingRule, weighted_residual


def gauss_newton_cg(
    equations: Equations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
    options: SolverOptions | None = None,
) -> Solution:
    """As `gauss_newton`, with neither a Jacobian nor what follows from one (rank and standard deviation).

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that passes at several images at once may take.
        budget: Time limit and progress report.
        begin: Where to begin, `(B, C, H, W)`; grey by default.
        options: Tolerances.

    Raises:
        FloatingPointError: If the equations are not finite at grey.

    >>> from torch import nn
    >>> from leakage_audit.equations.layer_peeling import peel_layers
    >>> from leakage_audit.observation import observe
    >>> from leakage_audit.priors import TotalVariation
    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 5)).double()
    >>> image = torch.linspace(0.3, 0.7, 6, dtype=torch.float64).expand(1, 3, 6, 6)
    >>> equations = peel_layers(observe(network, image, 2, mean=0.5), 1e-15)
    >>> found = gauss_newton_cg(equations, TotalVariation(), max_steps=30, memory=1e9, budget=Budget())
    >>> found.solved, found.rank, bool((found.image - image.flatten()).abs().max() < 0.01)
    (True, None, True)
    """
    options = options or SolverOptions()
    cg, pool = options.cg, options.linearization
    equations.within(budget)
    load_forward_mode()
    image, r = start(equations, options, begin)
    floor = equations.noise.clamp_min(options.floor)
    steps, averaged = 0, False
    erred = torch.full((len(equations.sizes),), torch.inf, dtype=r.dtype, device=r.device)
    with suppress(TimeoutError):  # then no step is made either
        if StatisticalLinearization.affordable(equations, memory, pool.perturbations):
            averaged = equations.kinked
    rule = StoppingRule(cg.stopping, floor, averaged, image, r)
    if averaged:
        cg = replace(cg, products=cg.products_averaged, exactness=cg.exactness_averaged)
    linearize = StatisticalLinearization(equations, pool) if averaged else PointLinearization(equations)
    with suppress(TimeoutError):  # a step that is broken off leaves the best before it
        for _ in budget.steps(max_steps, "Joint"):
            near = linearize(image, r)
            own = torch.stack([b.square().mean() for b in r.split(equations.sizes)])
            # No more than the last linearisation erred by, where that is known; no less, to be solvable, than a share.
            errors = torch.minimum(cg.trust**2 * own, torch.maximum(pool.shrink**2 * erred, cg.least_trust**2 * own))
            variance = floor**2 + near.variance
            noise = variance + torch.cat([e.expand(size) for e, size in zip(errors, equations.sizes, strict=True)])
            move = _step(
                prior.local_gaussian(image.reshape(equations.shape)), near, noise, budget, cg, len(options.shares)
            )
            if averaged:  # an average knows of the kinks ahead; F itself may rise on the way
                new, new_r = image + move, equations.evaluate(image + move)
            else:
                share, new, new_r = backtrack(equations, image, r, image + move, noise, rule.solved, options.shares)
                missed = new_r - r - share * near.jvp(move)
                erred = torch.stack([b.square().mean() for b in missed.split(equations.sizes)])
            change = rms(new - image)
            gained = weighted_residual(new_r, noise) <= (1 - cg.progress) * weighted_residual(r, noise)
            image, r, steps = new, new_r, steps + 1
            if rule(image, r, change, variance, noise, headway=averaged or gained):
                break
    return Solution(*rule.best, torch.full_like(image, torch.nan), None, steps, rule.status(steps, max_steps))


def _step(
    gaussian: LocalGaussian, near: MatrixFreeModel, noise: Tensor, budget: Budget, options: CGOptions, evaluations: int
) -> Tensor:
    """d, by preconditioned conjugate gradients, stopped early when the budget is spent but for some evaluations.

    Raises:
        OutOfTime: If the time is up before the first direction is known.
    """

    def normal(v: Tensor) -> Tensor:
        return near.vjp(near.jvp(v) / noise) + gaussian.precision(v)

    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(gaussian.image.numel(), generator=generator, dtype=noise.dtype).to(noise.device)
    data = float((near.jvp(probe).square() / noise).sum()) / len(probe)
    right = -near.vjp(near.r / noise) - gaussian.gradient
    precondition = gaussian.preconditioner(data)
    rest, d, goal = right, torch.zeros_like(right), options.exactness * float(right.norm())
    z = precondition(rest)
    p, rz = z, rest @ z
    for _ in range(options.products):
        if float(rest.norm()) <= goal:
            break
        try:
            budget.foresee(evaluations + 2 * PRODUCT, EVALUATION)  # or it is never known where the step leads
            curved = normal(p)
        except OutOfTime:  # the directions so far are a step, too
            if not d.any():
                raise
            break
        alpha = rz / (p @ curved)
        d, rest = d + alpha * p, rest - alpha * curved
        z = precondition(rest)
        rz, before = rest @ z, rz
        p = z + rz / before * p
    return d
