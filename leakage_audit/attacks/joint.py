"""Joint: solve all layers' systems at once, as equations in the image."""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.first_order_start import FirstOrderStart, explains, first_order_alone, kinked_in_time
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.attacks.within_intervals import within_intervals
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import Equations, relative_error_of, rms
from leakage_audit.equations.chain import ChainEquations
from leakage_audit.equations.choose import equations_of_one, separate
from leakage_audit.equations.network_recovery import recover_network
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.priors import GREY, PRIORS, Prior, load, under_noise
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.frozen_statistics import at_frozen_statistics
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.per_image import may_be_solved_per_image, observations, solve_per_image
from leakage_audit.solvers.read_off import read_off, read_off_chain, read_off_one
from leakage_audit.solvers.separable_update import fits_separably
from leakage_audit.solvers.stopping import Status
from leakage_audit.solvers.told_statistics import at_told_statistics
from leakage_audit.solvers.unit_weights import gauss_newton_with_kinks

NETWORKS = 2  # copies at once: the one that equations call, and the one that a search or a start works on
VECTORS = 12  # as long as the image or the equations, that conjugate gradients hold


class Joint(Attack):
    """Gauss-Newton on everything the gradients tell, under a prior on the image.

    Each step linearises all equations at the present image and takes the most probable image under the prior, the
    equations being trusted to their noise and to the size of the residual; the prior is asked anew at each image
    (`priors`). `residual` is the root mean square of the equations, each block scaled to targets of unit size.

    A batch is taken apart into its images' features first, at the last layer where it is smaller than the number of
    classes, otherwise at a hidden fully connected one behind which a rectifier follows; each image is solved by itself
    where its features suffice. From there, or from a convolution that tells its inputs by itself, the network is
    recovered towards the image as far as its gradients determine what its layers were fed, of all images together, and
    all are solved at once. Where Jacobian and normal equations would not fit in memory, the steps are
    made by conjugate gradients without them; `rank` is then None and `std` NaN.

    `details` holds `steps`, `rank` (of the Jacobian at the end), `joint_deficiency` (rank − unknowns), `pinned`
    (entries known to half a grey level), `std` (standard deviation of each entry under the local linear model,
    `(B, C, H, W)`), `equations`, `unknowns`, `separated_by` (the layer that took a batch apart, or None) and then
    `labels`, in the order of the images.

    Args:
        prior: `colour_tv`, `tv`, `none`, the file of a learned one, which then counts beside colour TV, or any object
            that is a `Prior`.
        max_steps: Most Gauss-Newton steps.
        max_memory_gb: Memory that Jacobian and normal equations may take.
        options: Tolerances and limits.

    Raises:
        ValueError: If there is no such prior, or a number is not positive.

    Example:
        >>> from leakage_audit.models import build
        >>> from leakage_audit.observation import observe
        >>> _ = torch.manual_seed(0)
        >>> image = torch.rand(1, 3, 12, 12)
        >>> found = Joint()(observe(build("cnn2_v1", image_size=12), image, 3, mean=0.5))
        >>> found.ended, bool((found.images - image).abs().max() < 1e-4)
        ("each layer's own system determined its input, with all equations solved", True)
        >>> from leakage_audit.solvers.options import SolverOptions, StoppingOptions
        >>> tight = SolverOptions(stopping=StoppingOptions(solved=1e-6))
        >>> Joint(options=JointOptions(solver=tight)).settings["options"]["solver"]["stopping"]["solved"]
        1e-06
    """

    name = "joint"
    choice = "prior"

    def __init__(
        self,
        prior: str | Prior = "colour_tv",
        max_steps: int = 30,
        max_memory_gb: float = 2.0,
        options: JointOptions | None = None,
    ) -> None:
        if not isinstance(prior, Prior) and not (isinstance(prior, str) and (prior in PRIORS or Path(prior).is_file())):
            raise ValueError(f"prior must be one of {', '.join(PRIORS)} or a learned one's file, got {prior!r}")
        if max_steps < 1 or not max_memory_gb > 0:
            raise ValueError(f"max_steps and max_memory_gb must be positive, got {max_steps} and {max_memory_gb}")
        self.prior, self.max_steps, self.max_memory_gb = prior, max_steps, max_memory_gb
        self.options = options or JointOptions()
        self.ending = self.options.ending
        if isinstance(prior, str):
            prior = PRIORS[prior]() if prior in PRIORS else load(prior)
        self._prior: Prior = prior

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Step until the image settles with its equations solved, or the residual stalls."""
        relative_error, shared = relative_error_of(seen.dtype, self.options.rounding_units), seen
        with in_double_precision(seen, budget, NETWORKS) as exact:
            return self._solved(exact, shared, relative_error, budget)

    def _solved(self, seen: Observation, shared: Observation, relative_error: float, budget: Budget) -> Found:
        budget.check()
        try:
            equations, found, layer, labels = self._find(seen, shared, relative_error, budget)
        except TimeoutError:
            return first_order_alone(shared, budget)
        except (ValueError, FloatingPointError) as error:  # gradients that fit no image, or none of this network
            grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
            return Found(seen.to_input(grey), False, str(error), float("nan"))
        if found.status is Status.TIME_UP and not found.steps and not found.context:
            raise OutOfTime("the time was up before the first step")
        image = found.image.reshape(equations.shape)
        return Found(
            x=seen.to_input(image),
            converged=found.status.converged,
            ended=found.ended,
            residual=rms(found.r),
            details={
                "steps": found.steps,
                "rank": found.rank,
                "joint_deficiency": None if found.rank is None else found.rank - image.numel(),
                "pinned": int((found.std < self.options.pinned).sum()),
                "std": found.std.reshape(equations.shape),
                "equations": len(found.r),
                "unknowns": image.numel(),
                "separated_by": layer,
            }
            | ({} if labels is None else {"labels": labels}),
        )

    def _find(
        self, seen: Observation, shared: Observation, relative_error: float, budget: Budget
    ) -> tuple[Equations, Solution, str | None, Tensor | None]:
        """The equations, their solution (image by image where that is enough), a separated batch's layer and labels."""
        options, memory = self.options, min(self.max_memory_gb * 1e9, budget.memory)
        if seen.batch_size == 1:
            early = budget.share(self.options.preparation)
            equations = self._of_one(seen, relative_error, early)
            solution = self._solve(equations, shared, budget, early=early)
            if equations.calibrated and self._misfit(equations, solution) > options.ending.noise_units**2:
                solution = self._from_blind_start(equations, solution, seen, shared, relative_error, budget)
            how = self._prior, relative_error, memory, budget, options.solver, options.intervals
            return equations, within_intervals(seen, solution, *how), None, None
        rounding, half = relative_error_of(shared.dtype, 1.0), memory / 2e9
        separated = separate(seen, relative_error, rounding, budget, options.separation, options.hidden, half)
        if separated is None or not may_be_solved_per_image(*separated):
            known = separated and separated[1]
            recovered = recover_network(seen, relative_error, rounding, known, budget, half, options.recovery)
            if recovered is not None:
                equations = RecoveredInputEquations(seen, recovered[1], relative_error, options.sketch, budget)
                labels = None if known is None else known.labels
                return equations, self._solve(equations, shared, budget), recovered[0], labels
        if separated is None:
            equations = AutogradEquations(seen, relative_error, None, options.sketch, options.autograd, budget)
            return equations, self._solve(equations, shared, budget), None, None
        seen, batch = separated
        equations = AutogradEquations(seen, relative_error, batch, options.sketch, options.autograd, budget)
        if may_be_solved_per_image(seen, batch):
            singles = (self._of_one(*one, budget) for one in observations(seen, batch))

            def solve(one: Equations) -> Solution:
                return self._solve(one, shared, budget)

            found = read_off(equations, seen, batch)
            if found is None:
                found = solve_per_image(equations, singles, solve, memory / 4, budget, options.solver)
            if found is not None:
                return equations, found, batch.layer, batch.labels
        found = self._solve(equations, replace(shared, labels=batch.labels), budget)
        return equations, found, batch.layer, batch.labels

    def _of_one(self, seen: Observation, relative_error: float, budget: Budget) -> Equations:
        options, memory = self.options, min(self.max_memory_gb * 1e9, budget.memory)
        how = options.sketch, options.peeling, options.recovery, options.autograd
        rounding = relative_error / options.rounding_units
        return equations_of_one(seen, relative_error, *how, budget, rounding, memory / 2e9)

    def _misfit(self, equations: Equations, found: Solution) -> float:
        """Mean square of the residual in units of the equations' noise, one at the truth."""
        return float((found.r / equations.noise.clamp_min(self.options.solver.floor)).square().mean())

    def _from_blind_start(
        self, equations: Equations, found: Solution, seen: Observation, shared: Observation, relative_error: float,
        budget: Budget,
    ) -> Solution:  # fmt: skip
        """Where a solution does not explain a noisy gradient: the better of it and one that begins elsewhere.

        Who knows the noise may begin where one who does not know it ends. To which of the two the gradient is likelier
        he knows as well.
        """
        try:
            blind = self._of_one(replace(seen, noise={}), relative_error, budget)
            begin = self._solve(blind, replace(shared, noise={}), budget).image.reshape(equations.shape)
            again = self._solve(equations, shared, budget, begin)
        except (ValueError, FloatingPointError, OutOfTime):  # there is one solution all the same
            return found
        return min(found, again, key=lambda solution: self._misfit(equations, solution))

    def _solve(
        self, equations: Equations, shared: Observation, budget: Budget, begin: Tensor | None = None,
        early: Budget | None = None,
    ) -> Solution:  # fmt: skip
        """With a Jacobian if it is cheap enough and fits in memory with what is made of it, otherwise without."""
        equations.within(budget, self.options.equations)
        options = self.options.solver
        prior = under_noise(self._prior) if equations.calibrated else self._prior
        if isinstance(equations, ChainEquations) and (found := read_off_chain(equations, options)) is not None:
            return found
        memory = min(self.max_memory_gb * 1e9, budget.memory)
        n, m = math.prod(equations.shape), len(equations.noise)
        pixels = math.prod(equations.shape[2:])  # of one image; a prior's Gaussian holds a matrix between them for each
        needed = 8 * ((5 if m > n else 6) * m * n + 2 * min(m, n) ** 2 + 12 * equations.shape[0] * pixels**2)
        cheap = needed <= memory and min(m, n) * equations.memory_estimate <= self.options.largest_work
        if isinstance(equations, RecoveredInputEquations) and equations.shape[0] == 1:
            found = read_off_one(equations, shared if shared.batch_size == 1 else equations.seen, self.options.matched)
            if found is not None:
                return found
        alone = equations.shape[0] == shared.batch_size == 1
        # Inputs with as many entries as the image leave so few kinks below them that averages do without a Jacobian.
        wide = isinstance(equations, RecoveredInputEquations) and equations.known >= n
        if isinstance(equations, RecoveredInputEquations) and wide and equations.mixes:
            told = at_told_statistics(equations, prior, self.max_steps, memory / 4, budget, begin, options)
            return told or at_frozen_statistics(equations, prior, memory / 4, budget, options, self.options.frozen)
        kinked, before = kinked_in_time(equations, budget, early if alone else None), ""
        cheap = cheap or (not kinked and fits_separably(equations, memory, self.options.largest_work))
        dense = cheap and not (wide and kinked)
        if not dense:
            budget.require("one pass through the gradient", 8 * (equations.memory_estimate + VECTORS * (n + m)))
        first = None if begin is not None else self._first(equations, shared, kinked, memory, early, budget)
        if first is not None:
            begin, before = first.image.reshape(equations.shape), first.ended
        opened = isinstance(equations, RecoveredInputEquations)
        straight = not opened and not isinstance(equations, AutogradEquations)  # but for a chain's own rectifiers
        far = kinked and not wide and begin is None
        ahead = first is not None and isinstance(equations, AutogradEquations) and not equations.recovered
        solver = gauss_newton_with_kinks if dense else gauss_newton_cg
        options = replace(options, fewest=self.options.fewest) if alone else options

        def solve(begin: Tensor | None, options: SolverOptions = options) -> Solution:
            return solver(equations, prior, self.max_steps, memory / 4, budget, begin, options)

        def resumed(_: Tensor) -> Solution:
            with suppress(OutOfTime):
                if not solution.status.converged:
                    return solve(solution.image, self.options.solver)
            return solution

        steps = self.options.warm_start_steps
        if far and (not dense or (equations.shape[0] == 1 and not straight)):
            one = shared if shared.batch_size == equations.shape[0] else equations.seen
            start = FirstOrderStart(one, steps, budget)
            whole = self.options.solver  # nothing is left to give way to
            return start.or_solution(equations, lambda x: solve(x if opened or not dense else None, whole), dense)
        try:
            solution = solve(begin)
        except OutOfTime:
            if first is None or not first.steps:
                raise
            unknown = torch.full_like(equations.noise, torch.nan)
            solution = replace(first, r=unknown, rank=None, status=Status.TIME_UP, context=before)
        if alone and not equations.calibrated and not solution.solved and not ahead and not budget.exhausted:
            with suppress(OutOfTime, ValueError):
                if not explains(solution, equations, self.options.unexplained):
                    solution = FirstOrderStart(shared, None, budget).or_solution(equations, resumed, dense)
        return solution if solution.steps or solution.context else replace(solution, context=before)

    def _first(
        self,
        equations: Equations,
        shared: Observation,
        kinked: bool,
        memory: float,
        early: Budget | None,
        budget: Budget,
    ) -> Solution | None:
        """Where to begin: what known inputs say by themselves, where they are straighter than the gradients beside."""
        if not isinstance(equations, AutogradEquations):
            return None
        relative_error = relative_error_of(shared.dtype, self.options.rounding_units)
        seen, options, sketch = equations.seen, self.options, self.options.sketch
        if equations.recovered:
            first = RecoveredInputEquations(seen, equations.recovered, relative_error, sketch, budget)
            straight = not kinked_in_time(first.within(budget, options.equations), budget, None)
            return self._solve(first, shared, early or budget) if straight else None
        if equations.last_input is None or not kinked:
            return None
        first = RecoveredInputEquations(seen, [equations.last_input], relative_error, sketch, budget, gradients=False)
        told = first.at_told_statistics() if first.mixes else first
        if told is None:
            return None
        told.within(budget, options.equations)
        return gauss_newton_cg(told, self._prior, self.max_steps, memory / 4, budget, None, options.solver)
