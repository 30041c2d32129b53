"""Gauss-Newton under a prior: linearise, trust as far as the linearisation holds, ask the prior anew.

The whole iteration is docs/method.md, section 5.15.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from leakage_audit.equations.base import EVALUATION, PRODUCT, Equations, rms
from leakage_audit.priors import GREY, Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.discrepancy import Discrepancy
from leakage_audit.solvers.gaussian_update import GaussianUpdate, rank, step_flops
from leakage_audit.solvers.linearization_error import LocalModel, NonsmoothErrorModel, SmoothErrorModel
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.separable_update import SeparableUpdate
from leakage_audit.solvers.stopping import Status, StoppingRule, weighted_residual


@dataclass(frozen=True)
class Solution:
    """Where the iteration ended.

    Attributes:
        image: `(n,)`.
        r: The equations there, `(m,)`.
        std: Standard deviation of each entry of the image under the last step's linear model, `(n,)`; NaN where there
            was no Jacobian.
        rank: Of the Jacobian; None where it was never formed.
        steps: Number of steps.
        status: How it ended.
        context: What came before, if that is part of how it ended.
    """

    image: Tensor
    r: Tensor
    std: Tensor
    rank: int | None
    steps: int
    status: Status
    context: str = ""

    @property
    def solved(self) -> bool:
        """Whether the equations are solved and the image has settled."""
        return self.status.solved

    @property
    def ended(self) -> str:
        """One sentence on how it ended."""
        sentence = self.status.sentence(residual=rms(self.r), steps=self.steps)
        return f"{sentence}: {self.context}" if self.context else sentence


def gauss_newton(
    equations: Equations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
    options: SolverOptions | None = None,
) -> Solution:
    """Step from grey until the image settles, the residual stalls or the budget is spent.

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit and progress report.
        begin: Where to begin, `(B, C, H, W)`; grey by default.
        options: Tolerances.

    Raises:
        FloatingPointError: If the equations are not finite at grey, or a step's normal equations not positive.

    >>> from torch import nn
    >>> from leakage_audit.equations.layer_peeling import peel_layers
    >>> from leakage_audit.observation import observe
    >>> from leakage_audit.priors import TotalVariation
    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 5)).double()
    >>> image = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    >>> equations = peel_layers(observe(network, image, 2, mean=0.5), 1e-15)
    >>> found = gauss_newton(equations, TotalVariation(), max_steps=30, memory=1e9, budget=Budget())
    >>> found.ended, found.rank, bool((found.image - image.flatten()).abs().max() < 1e-6)
    ('the image settled with its equations solved', 108, True)
    """
    options = options or SolverOptions()
    equations.within(budget)
    image, r = start(equations, options, begin)
    floor = equations.noise.clamp_min(options.floor)
    rule = StoppingRule(options.stopping, floor, False, image, r)
    steps, cost, discrepancy = 0, 0.0, Discrepancy(floor, equations.sizes, options)
    near: LocalModel | None = None
    step: GaussianUpdate | SeparableUpdate | None = None
    try:
        kinked = equations.kinked
        rule = StoppingRule(options.stopping, floor, kinked, image, r)
        kind = NonsmoothErrorModel if kinked else SmoothErrorModel
        model = kind(equations, memory, budget, options.linearization)
        if kinked and options.fewest:
            # A step costs no less than its algebra, nor than its Jacobian, as a few rows tell.
            budget.require("a few steps", flops=(1 + options.fewest) * step_flops(len(r), len(image)))
            near = kind(equations, memory, budget.share(1 / (1 + options.fewest)), options.linearization).first(image)
        else:
            near = model.first(image)
        if not torch.isfinite(near.jacobian @ torch.ones_like(image)).all():
            raise FloatingPointError("the network's own gradients are not finite: do its weights hold NaN?")
        started = budget.spent
        for _ in budget.steps(max_steps, "Joint"):
            if kinked and steps == 1 and options.fewest * (budget.spent - started) > budget.left:
                cost = math.inf
                break
            steps, begun = steps + 1, budget.spent
            noise = discrepancy.trust * floor**2 + near.variance
            step = _update(image.reshape(equations.shape), near, noise, prior, step, options)
            share, new, new_r = backtrack(equations, image, r, step.image, noise, rule.solved, options.shares)
            change, image, r = rms(new - image), new, new_r
            if equations.calibrated and isinstance(step, GaussianUpdate):
                change = change if discrepancy(r, step.expected_squares()) else max(change, 1.0)
            if rule(image, r, change, variance=noise, noise=noise, headway=share == 1 or not kinked):
                break
            cost = budget.spent - begun
            near = model.update(near, step, image, r)
    except TimeoutError:
        pass
    status = rule.status(steps, max_steps)
    if near is None or step is None or cost > budget.left:  # what follows takes about as long as a step
        return Solution(*rule.best, torch.full_like(image, torch.nan), None, steps, status)
    tolerance, jacobian = options.rank_tolerance, near.jacobian
    found = rank(jacobian, tolerance) if isinstance(jacobian, Tensor) else jacobian.rank(tolerance)
    return Solution(*rule.best, step.std(), found, steps, status)


def _update(
    images: Tensor,
    near: LocalModel,
    noise: Tensor,
    prior: Prior,
    last: GaussianUpdate | SeparableUpdate | None,
    options: SolverOptions,
) -> GaussianUpdate | SeparableUpdate:
    if isinstance(near.jacobian, Tensor):
        gaussian = prior.local_gaussian(images)
        return GaussianUpdate(images.flatten(), near.r, near.jacobian, noise, gaussian, options.jitters)
    gaussians = [prior.local_gaussian(image[None]) for image in images]
    last = last if isinstance(last, SeparableUpdate) else None
    return SeparableUpdate(images.flatten(), near.r, near.jacobian, noise, gaussians, last, options)


def start(equations: Equations, options: SolverOptions, begin: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where to begin, `(n,)`, and the residual there, `(m,)`.

    Args:
        equations: F(image) = 0.
        options: With the blobs where grey is a dead spot.
        begin: Another start than grey, of any shape.

    Raises:
        FloatingPointError: If the equations are not finite there.
    """
    image = initial_guess(equations, options.blobs, alike=options.alike) if begin is None else begin.flatten()
    r = equations.evaluate(image)
    if not torch.isfinite(r).all():
        raise FloatingPointError("the network's own gradients are not finite: do its weights hold NaN?")
    return image, r


def initial_guess(equations: Equations, blobs: float = 0.1, seed: int = 0, alike: float = 1e-9) -> Tensor:
    """Grey, `(n,)`, or soft blobs on it where grey is a dead spot.

    There rectifiers without biases are all off, and nothing may tell two images of a batch apart.

    Args:
        equations: F(image) = 0.
        blobs: Standard deviation of the blobs.
        seed: Of the blobs.
        alike: Relative difference of two images' slopes up to which they are the same.
    """
    grey = torch.full(equations.shape, GREY, dtype=torch.float64, device=equations.noise.device)
    with equations.budget.work(1 + PRODUCT, EVALUATION):
        r, pull = vjp(equations.residual, grey.flatten())[:2]
        slopes = pull(r)[0].detach()
    slopes = slopes.reshape(len(grey), -1)
    same = len(slopes) > 1 and torch.pdist(slopes).min() < alike * slopes.norm()
    if slopes.any() and not same:
        return grey.flatten()
    return soft_blobs(grey, blobs, seed).flatten()


def soft_blobs(grey: Tensor, std: float, seed: int = 0) -> Tensor:
    """Grey `(B, C, H, W)` with soft blobs of a standard deviation on it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*grey.shape[:2], 5, 5, generator=generator, dtype=torch.float64).to(grey)
    return grey + std * F.interpolate(coarse, grey.shape[2:], mode="bilinear", align_corners=True)


def backtrack(
    equations: Equations,
    image: Tensor,
    r: Tensor,
    goal: Tensor,
    noise: Tensor,
    solved: float,
    shares: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
) -> tuple[float, Tensor, Tensor]:
    """The longest of a few moves towards `goal` that makes the residual no worse, or the best of them.

    Args:
        equations: F(image) = 0.
        image: Where the move begins, `(n,)`.
        r: F there, `(m,)`.
        goal: Where the whole move leads, `(n,)`.
        noise: Variance by which residuals are compared, `(m,)`.
        solved: Root mean square of the residual that is good enough, whatever it was before.
        shares: Of the whole move, the longest first.

    Returns:
        Its share of the whole move, the image there and the residual there.
    """
    tried = []
    for share in shares:
        new = image + share * (goal - image)
        new_r = equations.evaluate(new)
        if weighted_residual(new_r, noise) < weighted_residual(r, noise) or rms(new_r) < solved:
            return share, new, new_r
        tried.append((weighted_residual(new_r, noise), share, new, new_r))
    return min(tried, key=lambda t: t[0])[1:]
