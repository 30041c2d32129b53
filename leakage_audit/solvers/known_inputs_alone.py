"""One image's known inputs solved by themselves, by steps that are as exact as their linearisation is.

They are continuous in the image and bend at every rectifier below: each step leaves about 0.8 of the residual however
exactly it is solved, until the rectifiers are right. A few products a step (inexact Newton; Dembo, Eisenstat & Steihaug
1982) get there in a fraction of the time; exact steps then end it.
"""

from dataclasses import replace

from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.priors import Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status


def known_inputs_alone(
    equations: RecoveredInputEquations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    options: SolverOptions | None = None,
) -> Solution:
    """`gauss_newton_cg` from grey with few products a step, then with as many as it takes.

    Arguments and errors are those of `gauss_newton_cg`, `max_steps` in units of an exact step's products.
    """
    options = options or SolverOptions()
    cg = options.cg
    loose = replace(cg, products=cg.products_known, exactness=cg.exactness_known)
    steps = max_steps * max(1, cg.products // cg.products_known)
    rough = gauss_newton_cg(equations, prior, steps, memory, budget, None, replace(options, cg=loose))
    if rough.solved or rough.status is Status.TIME_UP:
        return rough
    found = gauss_newton_cg(equations, prior, max_steps, memory, budget, rough.image, options)
    return replace(found, steps=rough.steps + found.steps)
