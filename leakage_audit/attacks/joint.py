"""Joint: solve all layers' systems at once, as equations in the image."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.first_order_start import first_order_alone
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.attacks.joint_solver import JointSolver
from leakage_audit.attacks.within_intervals import within_intervals
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import Equations, relative_error_of, rms
from leakage_audit.equations.choose import equations_of_one, separate
from leakage_audit.equations.network_recovery import recover_network
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.priors import GREY, PRIORS, Prior, load
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.per_image import may_be_solved_per_image, observations, solve_per_image
from leakage_audit.solvers.read_off import read_off
from leakage_audit.solvers.stopping import Status

NETWORKS = 2  # copies at once: the one that equations call, and the one that a search or a start works on


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
        self._solver = JointSolver(prior, max_steps, max_memory_gb * 1e9, self.options)

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
            solution = self._solver(equations, shared, budget, early=early)
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
                return equations, self._solver(equations, shared, budget), recovered[0], labels
        if separated is None:
            equations = AutogradEquations(seen, relative_error, None, options.sketch, options.autograd, budget)
            return equations, self._solver(equations, shared, budget), None, None
        seen, batch = separated
        equations = AutogradEquations(seen, relative_error, batch, options.sketch, options.autograd, budget)
        if may_be_solved_per_image(seen, batch):
            singles = (self._of_one(*one, budget) for one in observations(seen, batch))

            def solve(one: Equations) -> Solution:
                return self._solver(one, shared, budget)

            found = read_off(equations, seen, batch)
            if found is None:
                found = solve_per_image(equations, singles, solve, memory / 4, budget, options.solver)
            if found is not None:
                return equations, found, batch.layer, batch.labels
        found = self._solver(equations, replace(shared, labels=batch.labels), budget)
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
            begin = self._solver(blind, replace(shared, noise={}), budget).image.reshape(equations.shape)
            again = self._solver(equations, shared, budget, begin)
        except (ValueError, FloatingPointError, OutOfTime):  # there is one solution all the same
            return found
        return min(found, again, key=lambda solution: self._misfit(equations, solution))
