"""Gauss-Newton where equations are known to lie in intervals: at each linearisation, sites stand for the intervals."""

import torch
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.equations.interval_equations import IntervalEquations
from leakage_audit.priors import LocalGaussian, Prior
from leakage_audit.priors.tempered import Tempered
from leakage_audit.runtime import Budget
from leakage_audit.solvers.expectation_propagation import IntervalSites
from leakage_audit.solvers.gauss_newton import Solution, start
from leakage_audit.solvers.gaussian_update import GaussianUpdate
from leakage_audit.solvers.linearization_error import LocalModel, NonsmoothErrorModel, SmoothErrorModel
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status, weighted_residual


class _Propagation:
    """Sites and the prior's weight, from linearisation to linearisation."""

    def __init__(self, equations: IntervalEquations, options: SolverOptions) -> None:
        self._bounded, self._options, how = equations.bounded, options, options.propagation
        self._rounds, self._floor = how.rounds, how.floor**2
        self._own = equations.noise.square().clamp_min(self._floor)
        spread = torch.where(self._bounded, torch.ones_like(self._own), self._own)
        self.sites, self.weight = IntervalSites(equations.lower, equations.upper, spread, how.damping), 1.0
        self.variance = spread

    def step(self, image: Tensor, near: LocalModel, gaussian: LocalGaussian) -> GaussianUpdate:
        """The step that is left when the rounds are over; see `residual` for what it aims at."""
        noise = self._own + near.variance
        for _ in range(self._rounds):
            step = self._update(image, near, gaussian, noise)
            expected = step.expected_squares()
            mean = near.r + near.jacobian @ (step.image - image)
            self.sites.update(mean, self.variance * (1 - expected), noise)
            self._weigh(step.image - gaussian.mean, gaussian, float((1 - expected).sum()))
        return self._update(image, near, gaussian, noise)

    def residual(self, r: Tensor) -> float:
        """Squares of how far residuals are from their sites, in units of the sites' variance."""
        return weighted_residual(r - self.sites.mean, self.variance)

    def _update(self, image: Tensor, near: LocalModel, gaussian: LocalGaussian, noise: Tensor) -> GaussianUpdate:
        self.variance = torch.where(self._bounded, self.sites.variance, noise).clamp_min(self._floor)
        prior, target = Tempered(gaussian, self.weight), near.r - self.sites.mean
        assert isinstance(near.jacobian, Tensor)  # of one image
        return GaussianUpdate(image, target, near.jacobian, self.variance, prior, self._options.jitters)

    def _weigh(self, off: Tensor, gaussian: LocalGaussian, effective: float) -> None:
        """Towards the weight that makes the equations most probable (MacKay 1992), half of the way."""
        square = float(off @ gaussian.precision(off))
        likeliest = effective / square if square > 0 else 1.0
        self.weight = (self.weight * min(max(likeliest, self._options.least_trust), 1.0)) ** 0.5


def interval_gauss_newton(
    equations: IntervalEquations,
    prior: Prior,
    memory: float,
    budget: Budget,
    begin: Tensor | None = None,
    options: SolverOptions | None = None,
) -> Solution:
    """Step until the image settles.

    Args:
        equations: F(image) within intervals.
        prior: What images are like.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit.
        begin: Where to begin, `(1, C, H, W)`; grey by default.
        options: Of the linearisations, the sites and the prior's weight, and when an image has settled.

    Raises:
        FloatingPointError: If the equations are not finite, or a step's normal equations not positive.
        TimeoutError: If the time was up before the first step.
    """
    options = options or SolverOptions()
    equations.within(budget)
    image, r = start(equations, options, begin)
    kinked = equations.kinked
    model = (NonsmoothErrorModel if kinked else SmoothErrorModel)(equations, memory, budget, options.linearization)
    settled = options.stopping.settled_probed if kinked else options.stopping.settled
    near, steps, status = model.first(image), 0, Status.MAX_STEPS
    propagation = _Propagation(equations, options)
    step: GaussianUpdate | None = None
    try:
        for _ in budget.steps(options.propagation.steps, "Joint, intervals"):
            step, steps = propagation.step(image, near, prior.local_gaussian(image.reshape(equations.shape))), steps + 1
            before, origin, new_r = propagation.residual(r), image, r
            for share in options.shares:
                image = origin + share * (step.image - origin)
                new_r = equations.evaluate(image)
                if propagation.residual(new_r) <= before:
                    break
            r = new_r
            if rms(image - origin) < settled:
                status = Status.WITHIN
                break
            near = model.update(near, step, image, r)
    except TimeoutError:
        if step is None:
            raise
        status = Status.TIME_UP
    std = torch.full_like(image, torch.nan) if step is None else step.std()
    return Solution(image, r, std, None, steps, status)
