"""Equations with kinks, when the image is nearly right: each unit's equations weighed by their own residual.

Once most units are on the right side of their kinks, the gradient of an output channel agrees exactly where all of its
positions are, and is far off where one is not. Which channels are right is not known, but their residuals tell: with a
variance for each unit, maximised out, the data term is Σ_u m_u log ‖r_u‖, which iteratively reweighted least squares
minimise. Units that are wrong then hold the others back no more (docs/method/joint.md, section 5.12, (M114)).
"""

from dataclasses import replace

from torch import Tensor

from leakage_audit.equations.base import Equations, rms
from leakage_audit.priors import Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gaussian_update import GaussianUpdate, rank
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status, solved_below


def reweighted_by_unit(
    equations: Equations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Solution,
    options: SolverOptions,
) -> Solution:
    """Whole steps from a solution, each unit's equations in doubt by a share of their own residual; the best of them.

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit and progress report.
        begin: Where to begin.
        options: Tolerances.
    """
    best, image, idle = begin, begin.image, 0
    solved = solved_below(options.stopping, equations.noise.clamp_min(options.floor))
    floor, steps, shrink = equations.noise.clamp_min(options.floor), begin.steps, options.linearization.shrink
    status, model, began = Status.MAX_STEPS, None, budget.spent
    try:
        for _ in budget.steps(max_steps, "Joint"):
            r, jacobian = equations.linearize(image, memory, budget)
            noise = floor**2 + shrink**2 * unit_squares(r, equations.units)
            gaussian = prior.local_gaussian(image.reshape(equations.shape))
            step = GaussianUpdate(image, r, jacobian, noise, gaussian, options.jitters)
            change, image, steps = rms(step.image - image), step.image, steps + 1
            new = equations.evaluate(image)
            idle = 0 if rms(new) < rms(best.r) else idle + 1
            if not idle:
                best, model = replace(best, image=image, r=new), (step, jacobian)
            if change < options.by_unit.settled or idle >= options.by_unit.patience:
                status = Status.SOLVED if rms(best.r) <= solved else Status.STALLED
                break
    except TimeoutError:
        status = Status.TIME_UP
    if model is not None and (budget.spent - began) / (steps - begin.steps) < budget.left:
        best = replace(best, std=model[0].std(), rank=rank(model[1], options.rank_tolerance))
    return replace(best, steps=steps, status=status)


def unit_squares(r: Tensor, units: Tensor) -> Tensor:
    """Mean square of the residual over each equation's unit, `(m,)`.

    Args:
        r: The residual, `(m,)`.
        units: The unit of each equation, `(m,)`.

    >>> import torch
    >>> unit_squares(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 1]))
    tensor([5., 5., 4.])
    """
    count = int(units.max()) + 1
    sums = r.new_zeros(count).index_add(0, units, r.square())
    return (sums / units.bincount(minlength=count).clamp_min(1))[units]
