"""What a first-order recipe finds, beside Joint's own solution: where to begin, and what is returned if that is better.

Where every equation may jump on the way, and where the time is too short for a step, a recipe that needs a gradient
only is ahead. Which of two images explains the gradient better their residuals tell.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.attacks.base import Found
from leakage_audit.attacks.cosine_tv import CosineTV
from leakage_audit.equations.base import EVALUATION, Equations, rms
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.gauss_newton import Solution, soft_blobs
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status

COMPARED = 5.0  # evaluations of the equations, in which images are compared by them
Solve = Callable[[Tensor], Solution]


class FirstOrderStart:
    """A first-order recipe's image of what leaked, as long as there is time for; grey if the recipe prefers that.

    Where its steps would not leave half of the time nothing else comes of it, and the recipe is run as CosineTV runs
    it: long steps to the end find more than few that fall. Where it would end while its steps still grow, it begins
    with long steps; and where next to none fit at soft blobs on grey: its tiled pattern is further from an image than
    grey is, and fades over ten steps or so. (From blobs the objective is lower after any number, the image worse.)

    Args:
        seen: What leaked, in the type in which it was shared.
        steps: Of the recipe, its step sizes falling over them; None for as many as CosineTV makes.
        budget: Time limit.
        compared: Whether as much of it is left as a comparison with a solution takes.
        leaves: How often the steps must fit into the time, each as long as the objective's first value takes.
        few: Steps that `modern` takes to grow to its step size.
        fewer: Steps over which the tiled pattern fades.
        warming: `Recipe.warming` where fewer fit: five steps.

    Attributes:
        image: `(B, C, H, W)`, in float64.
        ended: How the recipe ended.

    Raises:
        OutOfTime: If the time was up before.
    """

    def __init__(
        self, seen: Observation, steps: int | None, budget: Budget, compared: bool = True,
        leaves: float = 2.0, few: int = 50, fewer: int = 10, warming: float = 400.0,
    ) -> None:  # fmt: skip
        self._seen, self._recipe = seen, CosineTV()
        budget.check()
        self.image = grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=torch.float64).to(seen.device)
        began = budget.spent
        at_grey = self._valued(grey)
        each, begin = budget.spent - began, None
        if steps is not None and leaves * steps * each < budget.left:
            self._recipe = CosineTV(iterations=steps)
        elif few * each > budget.left:
            self._recipe = CosineTV(recipe=replace(self._recipe.recipe, warming=warming))
            if fewer * each > budget.left:
                begin = seen.to_input(soft_blobs(grey, SolverOptions.blobs))
        spared = budget.sparing(COMPARED, EVALUATION) if compared else budget
        found = self._recipe.descend(seen, spared, begin)
        self.ended, self._objective = found.ended, found.residual
        if not at_grey < self._objective:
            self.image = seen.to_image(found.x.detach()).to(torch.float64)

    def or_solution(self, equations: Equations, solve: Solve, straight: bool) -> Solution:
        """The best of this, a solution that may begin at it, and grey, by the residual.

        Args:
            equations: F(image) = 0.
            solve: Solves them, given this image.
            straight: Whether the residual alone decides; otherwise the recipe's own objective must not be worse either.
        """
        grey = torch.full_like(self.image, GREY)
        others = {Status.KEPT_START: self.image.flatten(), Status.KEPT_GREY: grey.flatten()}
        try:
            residuals = {status: equations.evaluate(image) for status, image in others.items()}
            solution = solve(self.image)
            if math.isnan(rms(solution.r)):
                solution = replace(solution, r=equations.evaluate(solution.image))
        except OutOfTime:  # before it is known how well the start explains the gradient
            image, unknown = self.image.flatten(), torch.full_like(equations.noise, torch.nan)
            return Solution(image, unknown, image.new_full(image.shape, torch.nan), None, 0, Status.TIME_UP, self.ended)
        kept = min(residuals, key=lambda status: rms(residuals[status]))
        context = "" if solution.steps else self.ended
        worse = bool(solution.steps) and not straight and not self._valued(solution.image) <= self._objective
        if rms(solution.r) <= rms(residuals[kept]) and not worse:
            return replace(solution, context=context)
        status = solution.status if solution.status is Status.TIME_UP else kept
        other = replace(solution, std=torch.full_like(solution.std, torch.nan), rank=None, context=self.ended)
        return replace(other, image=others[kept], r=residuals[kept], status=status)

    def _valued(self, image: Tensor) -> float:
        """The recipe's own objective."""
        return self._recipe.objective(self._seen, self._seen.to_input(image.reshape(self.image.shape)))


def first_order_alone(seen: Observation, budget: Budget) -> Found:
    """What CosineTV's recipe finds of an image of which there was no time to solve the equations.

    Args:
        seen: What leaked, in the type in which it was shared.
        budget: Time limit.

    Raises:
        OutOfTime: If there is none left for this either, several images leaked or their labels are not to be had.
    """
    if seen.batch_size == 1:
        with suppress(ValueError):
            start = FirstOrderStart(seen, None, budget, compared=False)
            return Found(seen.to_input(start.image), False, f"the time was up: {start.ended}", math.nan)
    raise OutOfTime("the time was up before the first step")


def explains(solution: Solution, equations: Equations, share: float) -> bool:
    """Whether a solution did not give way for want of time, and leaves less of the gradient unexplained than grey does.

    Args:
        solution: Of the equations.
        equations: F(image) = 0.
        share: Of grey's residual that counts as less.
    """
    if solution.status is Status.TIME_UP:
        return solution.steps > 1  # what is left after several steps is too little for a recipe
    return rms(solution.r) <= share * rms(equations.evaluate(torch.full_like(solution.image, GREY)))


def kinked_in_time(equations: Equations, budget: Budget, early: Budget | None) -> bool:
    """Whether equations have kinks; they are under the whole budget afterwards.

    Once the time is up it no longer matters, as a solver then hands back its start; unless it was only the time to get
    ready in, after which a first-order recipe has its share.

    Args:
        equations: F(image) = 0.
        budget: Time limit.
        early: The part of it to get ready in, if there is one.

    Raises:
        TimeoutError: If that part is up, but not all.
    """
    try:
        return equations.within(early or budget).kinked
    except TimeoutError:
        if early is not None and not budget.exhausted:
            raise
        return False
    finally:
        equations.within(budget)
