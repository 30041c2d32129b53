"""Which iteration solves which equations of Joint, and where it begins.

The ways are asked in this order, and the first that applies has the answer:

1. *read off*: a layer's own system, or an input that a layer gave away, is the image already;
2. *at statistics*: batch normalisation in training mode lies below inputs that determine the images;
3. *from a first-order start*: every equation may jump on the way, and nothing else tells where to begin;
4. *iterate*: Gauss-Newton from grey, or from what known inputs say by themselves; with a first-order recipe afterwards
   where that explained nothing.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.attacks.first_order_start import FirstOrderStart, explains, kinked_in_time
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import Equations, relative_error_of
from leakage_audit.equations.chain import ChainEquations
from leakage_audit.equations.pooled_image import image_below_max_pooling
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.observation import Observation
from leakage_audit.priors import Prior, under_noise
from leakage_audit.runtime import Budget, OutOfTime, OverBudget
from leakage_audit.solvers.foresight import steps_fit
from leakage_audit.solvers.frozen_statistics import at_frozen_statistics
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.kinks import gauss_newton_with_kinks
from leakage_audit.solvers.known_inputs import by_known_inputs
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.read_off import read_off_chain, read_off_one
from leakage_audit.solvers.separable_update import fits_separably
from leakage_audit.solvers.stopping import Status
from leakage_audit.solvers.told_statistics import at_told_statistics

VECTORS = 12  # as long as the image or the equations, that conjugate gradients hold


@dataclass
class Task:
    """Equations to be solved, and what decides how.

    Attributes:
        equations: F(image) = 0.
        shared: What leaked, in the type in which it was shared.
        prior: What images are like.
        memory: Bytes that Jacobian and normal equations may take.
        budget: Time limit.
        begin: Where to begin, `(B, C, H, W)`, if that is known.
        early: The part of the time in which a single image's equations must be ready.
        options: Joint's.
    """

    equations: Equations
    shared: Observation
    prior: Prior
    memory: float
    budget: Budget
    begin: Tensor | None
    early: Budget | None
    options: JointOptions

    @cached_property
    def alone(self) -> bool:
        """Whether one image leaked, and nothing else is to be solved."""
        return self.equations.shape[0] == self.shared.batch_size == 1

    @cached_property
    def wide(self) -> bool:
        """Whether known inputs have as many entries as the image: averages then do without a Jacobian."""
        equations = self.equations
        return isinstance(equations, RecoveredInputEquations) and equations.known >= math.prod(equations.shape)

    @cached_property
    def kinked(self) -> bool:
        """Whether the equations have kinks.

        Raises:
            TimeoutError: If the time to get ready in is up before that is known.
        """
        return kinked_in_time(self.equations, self.budget, self.early if self.alone else None)

    @cached_property
    def dense(self) -> bool:
        """Whether a Jacobian is cheap enough and fits in memory with what is made of it.

        Raises:
            OutOfMemory: If it does not, and not even a pass without one does.
        """
        equations = self.equations
        n, m = math.prod(equations.shape), len(equations.noise)
        pixels = math.prod(equations.shape[2:])  # of one image; a prior's Gaussian holds a matrix between them for each
        needed = 8 * ((5 if m > n else 6) * m * n + 2 * min(m, n) ** 2 + 12 * equations.shape[0] * pixels**2)
        most = self.options.largest_work
        cheap = needed <= self.memory and min(m, n) * equations.memory_estimate <= most
        cheap = cheap or (not self.kinked and fits_separably(equations, self.memory, most))
        dense = cheap and not (self.wide and self.kinked)
        if not dense:
            self.budget.require("one pass through the gradient", 8 * (equations.memory_estimate + VECTORS * (n + m)))
        return dense


class JointSolver:
    """Solves Joint's equations in the way that suits them.

    Args:
        prior: What images are like.
        max_steps: Most Gauss-Newton steps.
        max_memory: Bytes that Jacobian and normal equations may take.
        options: Joint's.
    """

    def __init__(self, prior: Prior, max_steps: int, max_memory: float, options: JointOptions) -> None:
        self._prior, self._max_steps, self._max_memory, self._options = prior, max_steps, max_memory, options

    def __call__(
        self,
        equations: Equations,
        shared: Observation,
        budget: Budget,
        begin: Tensor | None = None,
        early: Budget | None = None,
    ) -> Solution:
        """The solution.

        Args:
            equations: F(image) = 0.
            shared: What leaked, in the type in which it was shared.
            budget: Time limit and progress report.
            begin: Where to begin, `(B, C, H, W)`, if that is known.
            early: The part of the time in which a single image's equations must be ready.

        Raises:
            OutOfTime: If the time was up before there was anything to give back; likewise OutOfMemory.
        """
        equations.within(budget, self._options.equations)
        prior, memory = self._prior_of(equations), min(self._max_memory, budget.memory)
        task = Task(equations, shared, prior, memory, budget, begin, early, self._options)
        return self._read_off(task) or self._at_statistics(task) or self._iterate(task)

    def _prior_of(self, equations: Equations) -> Prior:
        return under_noise(self._prior) if equations.calibrated else self._prior

    def _read_off(self, task: Task) -> Solution | None:
        equations = task.equations
        if isinstance(equations, ChainEquations):
            return read_off_chain(equations, self._options.solver)
        if isinstance(equations, RecoveredInputEquations) and equations.shape[0] == 1:
            one = task.shared if task.shared.batch_size == 1 else equations.seen
            return read_off_one(equations, one, self._options.matched)
        return None

    def _at_statistics(self, task: Task) -> Solution | None:
        equations, memory, options = task.equations, task.memory / 4, self._options.solver
        if not (isinstance(equations, RecoveredInputEquations) and task.wide and equations.mixes):
            return None
        told = at_told_statistics(equations, task.prior, self._max_steps, memory, task.budget, task.begin, options)
        return told or at_frozen_statistics(equations, task.prior, memory, task.budget, options, self._options.frozen)

    def _iterate(self, task: Task) -> Solution:
        # The order is the order in time: kinks are looked for before anything is begun.
        kinked, dense, equations = task.kinked, task.dense, task.equations
        first = None if task.begin is not None else self._first(task)
        begin, before = task.begin, ""
        if first is not None:
            begin, before = first.image.reshape(equations.shape), first.ended
        if kinked and not task.wide and begin is None and (not dense or _bends(equations)):
            return self._from_first_order(task)
        options = replace(self._options.solver, fewest=self._options.fewest) if task.alone else self._options.solver
        try:
            solution = self._gauss_newton(task, begin, options)
        except OutOfTime:
            if first is None or not first.steps:
                raise
            unknown = torch.full_like(equations.noise, torch.nan)
            solution = replace(first, r=unknown, rank=None, status=Status.TIME_UP, context=before)
        ahead = first is not None and isinstance(equations, AutogradEquations) and not equations.recovered
        # A single image whose noise is known begins elsewhere anyhow.
        whole = equations.shape[0] == task.shared.batch_size and not (task.alone and equations.calibrated)
        if whole and not solution.solved and not ahead and not task.budget.exhausted:
            solution = self._or_first_order(task, solution)
        return solution if solution.steps or solution.context else replace(solution, context=before)

    def _gauss_newton(self, task: Task, begin: Tensor | None, options: SolverOptions) -> Solution:
        solver = gauss_newton_with_kinks if task.dense else gauss_newton_cg
        return solver(task.equations, task.prior, self._max_steps, task.memory / 4, task.budget, begin, options)

    def _from_first_order(self, task: Task) -> Solution:
        equations, shared = task.equations, task.shared
        one = shared if shared.batch_size == equations.shape[0] else equations.seen
        # Few steps are worth their time where steps with a Jacobian follow in the half that they leave.
        half, least = task.budget.share(0.5), 1 + self._options.fewest
        follow = not task.dense or steps_fit(equations, task.memory / 4, half, least)
        start = FirstOrderStart(one, self._options.warm_start_steps if follow else None, task.budget)
        from_it = isinstance(equations, RecoveredInputEquations) or not task.dense

        def solve(image: Tensor) -> Solution:  # there is nothing left to give way to
            if not follow:
                unknown = image.new_full((image.numel(),), torch.nan)
                r = torch.full_like(equations.noise, torch.nan)
                return Solution(image.flatten(), r, unknown, None, 0, Status.TIME_UP)
            begin = self._below_pooling(task)
            begin = image if begin is None and from_it else begin
            return self._gauss_newton(task, begin, self._options.solver)

        return start.or_solution(equations, solve, task.dense)

    def _below_pooling(self, task: Task) -> Tensor | None:
        """The image below a convolution whose pooled maxima are known; what follows has the other half of the time."""
        equations, options = task.equations, self._options
        if not isinstance(equations, RecoveredInputEquations) or equations.shape[0] > 1:
            return None
        how = task.prior, options.recovery.walk, options.below_pooling, task.budget.share(0.5)
        with suppress(OverBudget):
            return image_below_max_pooling(equations.seen, equations.end, *how)
        return None

    def _or_first_order(self, task: Task, solution: Solution) -> Solution:
        """What a first-order recipe finds in the time left, if a solution explains nothing and that is better."""

        def resumed(_: Tensor) -> Solution:
            with suppress(OutOfTime):
                if not solution.status.converged:
                    return self._gauss_newton(task, solution.image, self._options.solver)
            return solution

        with suppress(OutOfTime, ValueError):
            if not explains(solution, task.equations, self._options.unexplained):
                return FirstOrderStart(task.shared, None, task.budget).or_solution(task.equations, resumed, task.dense)
        return solution

    def _first(self, task: Task) -> Solution | None:
        """Where to begin: what known inputs say by themselves, where they are straighter than the gradients beside."""
        equations, options, budget = task.equations, self._options, task.budget
        if isinstance(equations, RecoveredInputEquations):
            inputs = equations.without_gradients() if task.wide and task.kinked else None
            if inputs is None or not (task.alone or equations.shape[0] > 1):
                return None
            inputs.within(budget, options.equations)
            how = task.prior, self._max_steps, task.memory / 4, budget, None, options.solver
            return by_known_inputs(inputs, *how)
        if not isinstance(equations, AutogradEquations):
            return None
        relative_error = relative_error_of(task.shared.dtype, options.rounding_units)
        seen, sketch = equations.seen, options.sketch
        if equations.recovered:
            first = RecoveredInputEquations(seen, equations.recovered, relative_error, sketch, budget)
            straight = not kinked_in_time(first.within(budget, options.equations), budget, None)
            return self(first, task.shared, task.early or budget) if straight else None
        if equations.last_input is None or not task.kinked:
            return None
        first = RecoveredInputEquations(seen, [equations.last_input], relative_error, sketch, budget, gradients=False)
        told = first.at_told_statistics() if first.mixes else first
        if told is None:
            return None
        told.within(budget, options.equations)
        return gauss_newton_cg(told, self._prior, self._max_steps, task.memory / 4, budget, None, options.solver)


def _bends(equations: Equations) -> bool:
    """Whether one image's equations have other kinks than a chain's own rectifiers."""
    return equations.shape[0] == 1 and isinstance(equations, RecoveredInputEquations | AutogradEquations)
