"""Equations with kinks: several ways in turn, the best image by its residual kept.

Kinks rounded off get near from anywhere; their switches as unknowns find the rest where the equations determine the
image; and where few units are wrong their residuals tell (docs/method/joint.md, sections 5.11, 5.12 and 5.16).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.equations.base import Equations, rms
from leakage_audit.priors import GREY, Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution, gauss_newton
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status, solved_below
from leakage_audit.solvers.switch_gauss_newton import gauss_newton_with_switches
from leakage_audit.solvers.unit_weights import reweighted_by_unit


def gauss_newton_with_kinks(
    equations: Equations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
    options: SolverOptions | None = None,
) -> Solution:
    """`gauss_newton` and, as long as equations with kinks are not solved, switches, units and rounded kinks in turn.

    Arguments and errors are those of `gauss_newton`, `max_steps` of each way. The best by its residual is returned.
    """
    options = options or SolverOptions()
    switched = _has_switches(equations, options)
    first = min(max_steps, options.switches.rounded) if switched else max_steps
    best = gauss_newton(equations, prior, first, memory, budget, begin, options)
    if best.status is Status.TIME_UP or not equations.kinked:
        return best
    solved = solved_below(options.stopping, equations.noise.clamp_min(options.floor))
    if first < max_steps and best.status is Status.MAX_STEPS and rms(best.r) <= solved:  # it has only to settle
        return rounded_again(equations, prior, max_steps - first, memory, budget, best, options)
    ways = [gauss_newton_with_switches] * switched + [reweighted_by_unit, rounded_again]
    for way in ways * options.by_unit.turns:
        if best.status is Status.TIME_UP or rms(best.r) <= solved:
            break
        best = way(equations, prior, max_steps, memory, budget, best, options)
    return best


def _has_switches(equations: Equations, options: SolverOptions) -> bool:
    """Whether there are kinks, all of them switches, and not fewer equations than entries: else the image is open."""
    if len(equations.noise) < math.prod(equations.shape):
        return False
    grey = torch.full((math.prod(equations.shape),), GREY).to(equations.noise)
    try:
        return options.switches.most > 0 and equations.kinked and equations.switches(grey) is not None
    except TimeoutError:  # the iteration finds that out as well, and says so
        return False


def rounded_again(
    equations: Equations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Solution,
    options: SolverOptions,
) -> Solution:
    """`gauss_newton` with kinks rounded off from a solution; that one again where nothing better is found.

    Args and errors are those of `gauss_newton`.
    """
    found = gauss_newton(equations, prior, max_steps, memory, budget, begin.image, replace(options, fewest=0))
    found = replace(found, steps=begin.steps + found.steps)
    return found if rms(found.r) < rms(begin.r) else replace(begin, steps=found.steps, status=found.status)
