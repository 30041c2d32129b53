"""Gauss-Newton under a prior: linearise, trust as far as the linearisation holds, ask the prior anew."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from leakage_audit.equations.base import Equations, rms
from leakage_audit.priors import GREY, Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gaussian_update import GaussianUpdate, rank
from leakage_audit.solvers.linearization_error import LocalModel, NonsmoothErrorModel, SmoothErrorModel

SOLVED = 1e-4  # residual (root mean square, targets being 1) below which the equations count as solved
SETTLED = 1.5e-3  # change of the image (root mean square, images in [0, 1]) below which it has settled
TREMBLING = 3e-3  # the same where kinks are probed at random, which keeps the image moving a little
WITHIN = 2.0  # kinked equations count as solved within this many standard deviations of what their kinks leave open
RANK_TOLERANCE = 1e-6  # singular values below this share of the largest count as zero
FLOOR = 1e-7  # least noise (targets being 1) for which the normal equations hold in float64
BLOBS = 0.1  # standard deviation of the blobs where grey is no place to start
PATIENCE = 3  # short steps in a row on kinked equations before the iteration stops


@dataclass(frozen=True)
class Solution:
    """Where the iteration ended.

    Attributes:
        image: `(n,)`.
        r: The equations there, `(m,)`.
        std: Standard deviation of each entry of the image under the last step's linear model, `(n,)`.
        rank: Of the Jacobian; None where it was never formed.
        steps: Number of steps.
        converged: Whether the equations are solved and the image has settled.
        ended: One sentence on how it ended.
    """

    image: Tensor
    r: Tensor
    std: Tensor
    rank: int | None
    steps: int
    converged: bool
    ended: str


def gauss_newton(equations: Equations, prior: Prior, max_steps: int, memory: float, budget: Budget) -> Solution:
    """Step from grey until the image settles, the residual stalls or the budget is spent.

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit and progress report.

    Raises:
        FloatingPointError: If the equations are not finite at grey, or a step's normal equations not positive.
    """
    image = initial_guess(equations)
    r = equations.residual(image)
    if not torch.isfinite(r).all():
        raise FloatingPointError("the network's own gradients are not finite: do its weights hold NaN?")
    floor = equations.noise.clamp_min(FLOOR)
    solved = max(SOLVED, 3 * rms(floor))
    best, ended, converged, steps, short, cost = (image, r), "the time was up", False, 0, 0, 0.0
    near: LocalModel | None = None
    step: GaussianUpdate | None = None
    kinked = False
    try:
        kinked = equations.within(budget).kinked
        error_model = (NonsmoothErrorModel if kinked else SmoothErrorModel)(equations, memory, budget)
        near = error_model.first(image)
        if not torch.isfinite(near.jacobian).all():
            raise FloatingPointError("the network's own gradients are not finite: do its weights hold NaN?")
        for _ in budget.steps(max_steps, "Joint"):
            if not _fits(budget, cost):
                break
            steps, begun = steps + 1, budget.spent
            noise = floor**2 + near.variance
            step = GaussianUpdate(
                image, near.r, near.jacobian, noise, prior.local_gaussian(image.reshape(equations.shape))
            )
            share, new, new_r = backtrack(equations, image, r, step.image, noise, solved)
            change, image, r = rms(new - image), new, new_r
            short = short + 1 if share < 1 else 0
            explained = rms(r) <= solved or (kinked and rms(r / noise.sqrt()) <= WITHIN)
            settled = change < (TREMBLING if kinked else SETTLED)
            converged = settled and explained
            if converged or rms(r) <= solved or weighted_residual(r, noise) <= weighted_residual(best[1], noise):
                best = image, r
            if converged:
                ended = "the image settled with its equations solved"
                break
            if settled or (kinked and short >= PATIENCE):
                ended = f"the residual stalled at {rms(best[1]):.2g} of the targets' size"
                break
            cost = budget.spent - begun
            near = error_model.update(near, step, image, r)
        else:
            if steps == max_steps:
                ended = f"{max_steps} steps were not enough"
    except TimeoutError:
        pass
    if near is None or step is None or not _fits(budget, cost):  # what follows takes about as long as a step
        return Solution(*best, torch.full_like(image, torch.nan), None, steps, converged, ended)
    return Solution(*best, step.std(), rank(near.jacobian, RANK_TOLERANCE), steps, converged, ended)


def initial_guess(equations: Equations, seed: int = 0) -> Tensor:
    """Grey, `(n,)`, or soft blobs on it where grey is a dead spot.

    There rectifiers without biases are all off, and nothing may tell two images of a batch apart.
    """
    grey = torch.full(equations.shape, GREY, dtype=torch.float64, device=equations.noise.device)
    r, pull = vjp(equations.residual, grey.flatten())[:2]
    slopes = pull(r)[0].reshape(len(grey), -1)
    alike = len(slopes) > 1 and torch.pdist(slopes).min() < 1e-9 * slopes.norm()
    if slopes.any() and not alike:
        return grey.flatten()
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*equations.shape[:2], 5, 5, generator=generator, dtype=torch.float64).to(grey)
    blobs = F.interpolate(coarse, equations.shape[2:], mode="bilinear", align_corners=True)
    return (grey + BLOBS * blobs).flatten()


def backtrack(
    equations: Equations, image: Tensor, r: Tensor, goal: Tensor, noise: Tensor, solved: float
) -> tuple[float, Tensor, Tensor]:
    """The longest of a few moves towards `goal` that makes the residual no worse, or the best of them.

    Returns:
        Its share of the whole move, the image there and the residual there.
    """
    tried = []
    for share in (1.0, 0.5, 0.25, 0.125):
        new = image + share * (goal - image)
        new_r = equations.residual(new)
        if weighted_residual(new_r, noise) < weighted_residual(r, noise) or rms(new_r) < solved:
            return share, new, new_r
        tried.append((weighted_residual(new_r, noise), share, new, new_r))
    return min(tried, key=lambda t: t[0])[1:]


def weighted_residual(r: Tensor, noise: Tensor) -> float:
    """Squares of the residual, each in units of its equation's variance."""
    return float((r.square() / noise).sum())


def _fits(budget: Budget, seconds: float) -> bool:
    """Whether there is as much time left."""
    return budget.seconds is None or budget.spent + seconds <= budget.seconds
