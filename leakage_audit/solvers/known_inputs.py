"""A batch's known inputs solved by themselves, before or instead of the gradients below them.

They are continuous in the images where the gradients jump, and cost a tenth of them a step. Trusted to a fixed share of
what they are off, no step is longer than its linearisation holds (docs/method.md, section 12.5).
"""

from dataclasses import replace

from torch import Tensor

from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.priors import Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import SolverOptions


def by_known_inputs(
    inputs: RecoveredInputEquations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None,
    options: SolverOptions,
) -> Solution:
    """Steps on a batch's known inputs alone, each no longer than its linearisation holds.

    Args:
        inputs: Without the gradients below.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that passes at several images at once may take.
        budget: Time limit and progress report.
        begin: Where to begin, `(B, C, H, W)`; grey by default.
        options: Tolerances.
    """
    cg = options.cg
    options = replace(options, cg=replace(cg, least_trust=cg.trust, progress=cg.progress_inputs))
    return gauss_newton_cg(inputs, prior, max_steps, memory, budget, begin, options)
