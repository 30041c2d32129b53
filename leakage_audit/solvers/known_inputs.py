"""Known inputs solved by themselves, before or instead of the gradients below them.

They are continuous in the images where the gradients jump, cost a tenth of them a step, and bend at every rectifier
below: each step leaves about 0.8 of the residual however exactly it is solved, until the rectifiers are right.
"""

from dataclasses import replace

from torch import Tensor

from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.priors import Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status


def by_known_inputs(
    inputs: RecoveredInputEquations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
    options: SolverOptions | None = None,
) -> Solution:
    """`gauss_newton_cg` on known inputs alone.

    One image's first steps have few products (inexact Newton; Dembo, Eisenstat & Steihaug 1982), which is as exact as
    their linearisation is; exact steps end it. A batch's are trusted to a fixed share of what they are off, so that no
    step is longer than its linearisation holds (docs/method.md, section 12.5).

    Arguments and errors are those of `gauss_newton_cg`, `max_steps` in units of an exact step's products.
    """
    options = options or SolverOptions()
    cg = options.cg
    if inputs.shape[0] > 1:
        steady = replace(cg, least_trust=cg.trust, progress=cg.progress_inputs)
        return gauss_newton_cg(inputs, prior, max_steps, memory, budget, begin, replace(options, cg=steady))
    loose = replace(cg, products=cg.products_known, exactness=cg.exactness_known)
    steps = max_steps * max(1, cg.products // cg.products_known)
    rough = gauss_newton_cg(inputs, prior, steps, memory, budget, begin, replace(options, cg=loose))
    if rough.solved or rough.status is Status.TIME_UP:
        return rough
    found = gauss_newton_cg(inputs, prior, max_steps, memory, budget, rough.image, options)
    return replace(found, steps=rough.steps + found.steps)
