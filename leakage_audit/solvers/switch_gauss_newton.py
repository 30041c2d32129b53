"""Gauss-Newton on the image and its network's switches together.

Near an image a rectifier network's gradient is smooth but for the switches that are undecided there, and each of those
adds a jump of known shape: to count jumps for noise throws away that they are few, known and either there or not. So
undecided switches are unknowns of their own, 0 or 1 with the odds that the image's uncertainty gives them, solved for
by expectation propagation beside the image (docs/method/joint.md, section 5.16, (M115) to (M117)).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.equations.base import Equations, rms
from leakage_audit.equations.differentiation import columns_of
from leakage_audit.equations.switches import Switches
from leakage_audit.priors import LocalGaussian, Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.binary_propagation import propagate_binary
from leakage_audit.solvers.eliminated_image import EliminatedImage
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gaussian_update import rank
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status, solved_below


def gauss_newton_with_switches(
    equations: Equations,
    prior: Prior,
    max_steps: int,
    memory: float,
    budget: Budget,
    begin: Solution,
    options: SolverOptions,
) -> Solution:
    """Steps from a solution that is roughly right; the best of them, or `begin` where there is nothing better.

    Args:
        equations: F(image) = 0.
        prior: What images are like.
        max_steps: Most steps.
        memory: Bytes that Jacobian and normal equations may take.
        budget: Time limit and progress report.
        begin: Where to begin.
        options: Tolerances.
    """
    how, image, steps, idle, last = options.switches, begin.image, 0, 0, None
    few, best, status, n = equations, begin, Status.MAX_STEPS, len(begin.image)
    try:
        switches = equations.switches(image)
        if switches is None:
            return begin
        most = min(how.most, len(switches.margins))
        equations = few.with_rows(math.ceil(how.plenty * (n + most)))
        m = len(equations.noise)
        if 8 * (3 * m * (n + most) + 4 * n**2 + 4 * most**2) > 4 * memory:
            return begin
        budget.require("a step with switches", flops=2.0 * m * (n + most) ** 2 + float(n) ** 3)
        least, sigma, generator = rms(equations.evaluate(image)), how.sigma, torch.Generator().manual_seed(0)
        solved = solved_below(options.stopping, equations.noise.clamp_min(options.floor))
        for _ in budget.steps(max_steps, "Joint"):
            step = _SwitchStep(equations, prior, image, sigma, most, memory, budget, generator, options)
            r, change, steps = equations.evaluate(step.image), rms(step.image - image), steps + 1
            image = step.image
            sigma = max(min(how.keep * change, sigma), how.widen * rms(step.std))
            idle = 0 if rms(r) < (1 - how.gain) * least else idle + 1
            if rms(r) < least:
                least, last, best = rms(r), step, replace(best, image=image, std=step.std)
            if least <= solved and idle:
                status = Status.SOLVED
            elif idle >= how.patience:
                status = Status.STALLED
            if status is not Status.MAX_STEPS:
                break
    except TimeoutError:
        status = Status.TIME_UP
    r = few.residual(best.image).detach()
    if last is None or rms(r) >= rms(begin.r):  # others may find something in what time there is
        return replace(begin, status=Status.TIME_UP) if budget.exhausted else begin
    found = rank(last.jacobian, options.rank_tolerance)
    return replace(best, r=r, rank=found, steps=begin.steps + steps, status=status)


class _SwitchStep:
    """One step: which switches are undecided around an image, and the image that is most probable with them.

    Attributes:
        image: `(n,)`.
        std: Standard deviation of each entry, `(n,)`.
        jacobian: Of the equations in the image with the switches given, `(m, n)`.
    """

    def __init__(
        self, equations: Equations, prior: Prior, image: Tensor, sigma: float, most: int, memory: float,
        budget: Budget, generator: torch.Generator, options: SolverOptions,
    ) -> None:  # fmt: skip
        self._equations, self._memory, self._budget, self._options = equations, memory, budget, options
        switches = equations.switches(image)
        assert switches is not None
        odds, self._open = self._undecided(switches, image, sigma, most, generator)
        self._on = switches.on
        self._windows = _windows(switches, self._open)
        gaussian = prior.local_gaussian(image.reshape(equations.shape))
        x, a, error, how = image, odds, None, options.switches
        for _ in range(how.relinearizations):
            x, a, error, self.std = self._solve(x, a, odds, error, gaussian)
            if error <= how.bends * rms(equations.noise):
                break
        self.image = x

    def _undecided(
        self, switches: Switches, image: Tensor, sigma: float, most: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Odds of the undecided switches, and which they are, the most undecided ones where they are many."""
        how = self._options.switches
        moves = sigma * torch.randn(how.probes, len(image), generator=generator, dtype=torch.float64).to(image)
        total = torch.zeros_like(switches.margins)
        for move in moves:
            other = self._equations.switches(image + move)
            assert other is not None
            total += (other.margins - switches.margins).square()
        std = (total / how.probes).sqrt().clamp_min(torch.finfo(total.dtype).tiny)
        odds = torch.special.ndtr(switches.margins / std)
        spread = odds * (1 - odds)
        count = min(int((spread > how.least).sum()), most)
        found = spread.topk(count)[1].sort()[0]
        return odds[found], found

    def _given(self, a: Tensor) -> Tensor:
        return self._on.index_copy(0, self._open, a)

    def _solve(
        self, x: Tensor, a: Tensor, odds: Tensor, error: float | None, gaussian: LocalGaussian
    ) -> tuple[Tensor, Tensor, float, Tensor]:
        """Image and switches of the linear model around both, what it misses there, and how sure the image is."""
        equations, options = self._equations, self._options
        how, both = options.switches, torch.cat([x, a])
        split = [len(x), len(a)]

        def residual(both: Tensor) -> Tensor:
            image, switches = both.split(split)
            return equations.residual_at(image, self._given(switches))

        r = residual(both).detach()
        chunk = equations.at_once(self._memory, equations.options.columns)
        jacobian = columns_of(residual, both, chunk, self._budget, "columns with switches")
        self.jacobian, others = jacobian.split(split, 1)
        missed = how.first * rms(r) if error is None else how.shrink * error
        noise = equations.noise.clamp_min(options.floor).square() + missed**2
        linear = EliminatedImage(jacobian @ both - r, self.jacobian, others, noise, gaussian, options.jitters)
        one = self._windows / how.window**2  # one switch of a window is on
        precision, shift = linear.precision + one.T @ self._windows, linear.shift + one.sum(0)
        mean, covariance = propagate_binary(precision, shift, odds, how.rounds, how.damping, options.jitters)
        after = torch.cat([linear.image(mean), mean])
        miss = rms(residual(after).detach() - r - jacobian @ (after - both))
        return *after.split(split), miss, linear.std(covariance)


def _windows(switches: Switches, found: Tensor) -> Tensor:
    """Of each window with undecided switches its row of ones among them, `(windows, undecided)`.

    Switches of such a window that are decided are off: the one that is on would be undecided as well.
    """
    window = switches.window[found]
    numbers = window[window >= 0].unique()
    return (window[None] == numbers[:, None]).to(switches.margins)
