"""Whether steps fit into the time, before anything is spent on a start for them."""

import math

import torch
from torch.func import vjp, vmap

from leakage_audit.equations.base import COLUMNS, ROWS, Equations
from leakage_audit.equations.differentiation import load_forward_mode, unit_vectors
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.gaussian_update import step_flops


def steps_fit(equations: Equations, memory: float, budget: Budget, count: int) -> bool:
    """Whether so many Jacobians and updates fit in the time left, as a few rows of the largest block, or columns, tell.

    Args:
        equations: F(image) = 0.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit.
        count: Of the steps.

    >>> import torch
    >>> from torch import nn
    >>> from leakage_audit.equations.autograd import AutogradEquations
    >>> from leakage_audit.observation import observe
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double()
    >>> equations = AutogradEquations(observe(network, torch.rand(1, 3, 6, 6).double(), 2, mean=0.5), 1e-15)
    >>> steps_fit(equations, 1e9, Budget(), 3), steps_fit(equations, 1e9, Budget(1.0), 10**6)
    (True, False)
    """
    load_forward_mode()
    budget, options, m, n = budget.share(), equations.options, len(equations.noise), math.prod(equations.shape)
    image = torch.full((n,), GREY).to(equations.noise)
    passes = min(m, n)
    largest = max(range(len(equations.sizes)), key=equations.sizes.__getitem__)
    try:
        budget.require("a few steps", flops=count * step_flops(m, n))
        if m <= n:
            part, pull = vjp(lambda x: equations.residuals(x)[largest], image)[:2]
            units = next(unit_vectors(len(part), equations.at_once(memory, options.rows), part))
            with budget.work(len(units), ROWS):
                vmap(lambda v: pull(v)[0])(units)
        else:
            units = next(unit_vectors(n, equations.at_once(memory, options.columns), image))
            with budget.work(len(units), COLUMNS):
                vmap(lambda v: equations.jvp(image, v))(units)
        budget.foresee(count * passes, ROWS if m <= n else COLUMNS)
    except OutOfTime:
        return False
    return True
