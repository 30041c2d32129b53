"""Known inputs above batch statistics solved at the variances that ε tells (docs/method.md, sections 10 and 12.5).

With these the images have a size that a prior cannot take away. Of a batch the known inputs suffice by themselves: they
are continuous in the images, and a step on them costs a tenth of one on the gradients below, which jump. Where they
are many, and trusted to a share of what they are off, no step is longer than its linearisation holds.
"""

from dataclasses import replace

from torch import Tensor

from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.priors import Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.known_inputs import by_known_inputs
from leakage_audit.solvers.options import SolverOptions


def at_told_statistics(
    equations: RecoveredInputEquations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
    options: SolverOptions | None = None,
) -> Solution | None:
    """Steps at the variances that ε tells: on the known inputs of a batch, of a single image on the gradients, too.

    Args:
        equations: With a normalisation in training mode below what is known.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that passes at several images at once may take.
        budget: Time limit and progress report.
        begin: Where to begin, `(B, C, H, W)`; grey by default.
        options: Tolerances.

    Returns:
        None if a normalisation is not told.
    """
    options, batch = options or SolverOptions(), equations.shape[0] > 1
    told = equations.at_told_statistics(gradients=not batch)
    if told is None:
        return None
    solve = by_known_inputs if batch else gauss_newton_cg
    found = solve(told, prior, max_steps, memory, budget, begin, options)
    return found if found.steps else replace(found, context="before the first step, so that this is grey")
