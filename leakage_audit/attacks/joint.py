"""Joint: solve all layers' systems at once, as equations in the image."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.cosine_tv import CosineTV
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.backward_recovery import recover_backwards
from leakage_audit.equations.base import Equations, relative_error_of
from leakage_audit.equations.batch_separation import separate_batch
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY, PRIORS, TotalVariation, load
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution, gauss_newton, rms
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.per_image import may_be_solved_per_image, observations, solve_per_image

LARGEST_WORK = 3e10  # numbers that the passes of one Jacobian may keep; beyond this it takes minutes on a few cores
WARMING = 500  # first-order steps that precede a solution without a Jacobian on networks with kinks
PINNED = 0.5 / 255  # an entry is pinned down when its standard deviation is below half a grey level of eight bits


class Joint(Attack):
    """Gauss-Newton on everything the gradients tell, under a prior on the image.

    Each step linearises all equations at the present image and takes the most probable image under the prior, the
    equations being trusted to their noise and to the size of the residual; the prior is asked anew at each image
    (`priors`). `residual` is the root mean square of the equations, each block scaled to targets of unit size.

    A batch smaller than the number of classes is taken apart into its images' features first, so that each image is
    solved by itself where those suffice. Where Jacobian and normal equations would not fit in memory, the steps are
    made by conjugate gradients without them; `rank` is then None and `std` NaN.

    `details` holds `steps`, `rank` (of the Jacobian at the end), `joint_deficiency` (rank − unknowns), `pinned`
    (entries known to half a grey level), `std` (standard deviation of each entry under the local linear model,
    `(B, C, H, W)`), `equations` and `unknowns`.

    Args:
        prior: `colour_tv`, `tv`, `none`, or the file of a learned one, which then counts beside colour TV.
        max_steps: Most Gauss-Newton steps.
        max_memory_gb: Memory that Jacobian and normal equations may take.

    Raises:
        ValueError: If there is no such prior, or a number is not positive.
    """

    name = "joint"
    choice = "prior"

    def __init__(self, prior: str = "colour_tv", max_steps: int = 30, max_memory_gb: float = 2.0) -> None:
        if prior not in PRIORS and not Path(prior).is_file():
            raise ValueError(f"prior must be one of {', '.join(PRIORS)} or a learned one's file, got {prior!r}")
        if max_steps < 1 or not max_memory_gb > 0:
            raise ValueError(f"max_steps and max_memory_gb must be positive, got {max_steps} and {max_memory_gb}")
        self.prior, self.max_steps, self.max_memory_gb = prior, max_steps, max_memory_gb
        self._prior = PRIORS[prior]() if prior in PRIORS else load(prior)

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Step until the image settles with its equations solved, or the residual stalls."""
        relative_error, shared = relative_error_of(seen.dtype), seen
        seen = seen.to(torch.float64)
        try:
            equations, found = self._find(seen, shared, relative_error, budget)
        except (ValueError, FloatingPointError, TimeoutError) as error:  # gradients that fit no image or network
            grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
            return Found(seen.to_input(grey), False, str(error), float("nan"))
        image = found.image.reshape(equations.shape)
        return Found(
            x=seen.to_input(image),
            converged=found.converged,
            ended=found.ended,
            residual=rms(found.r),
            details={
                "steps": found.steps,
                "rank": found.rank,
                "joint_deficiency": None if found.rank is None else found.rank - image.numel(),
                "pinned": int((found.std < PINNED).sum()),
                "std": found.std.reshape(equations.shape),
                "equations": len(found.r),
                "unknowns": image.numel(),
            },
        )

    def _find(
        self, seen: Observation, shared: Observation, relative_error: float, budget: Budget
    ) -> tuple[Equations, Solution]:
        """The equations and their solution: a batch's image by image where that is enough, otherwise all at once."""
        if seen.batch_size == 1:
            equations = _equations(seen, relative_error)
            return equations, self._solve(equations, shared, budget)
        separated = separate_batch(seen, relative_error, budget)
        equations = AutogradEquations(seen, relative_error, separated)
        if separated is not None and may_be_solved_per_image(seen, separated):
            singles = (_equations(*one) for one in observations(seen, separated))
            found = solve_per_image(equations, singles, lambda one: self._solve(one, shared, budget), budget)
            if found is not None:
                return equations, found
        return equations, self._solve(equations, shared, budget)

    def _solve(self, equations: Equations, shared: Observation, budget: Budget) -> Solution:
        """With a Jacobian if it is cheap enough and fits in memory with what is made of it, otherwise without."""
        equations.within(budget)
        memory, prior = self.max_memory_gb * 1e9, self._prior
        n, m = math.prod(equations.shape), len(equations.noise)
        pixels = math.prod(equations.shape[2:])  # of one image; a belief holds a matrix between them for each
        needed = 8 * ((5 if m > n else 6) * m * n + 2 * min(m, n) ** 2 + 12 * equations.shape[0] * pixels**2)
        cheap = needed <= memory and min(m, n) * equations.memory_estimate <= LARGEST_WORK
        recovered = isinstance(equations, RecoveredInputEquations) and isinstance(prior, TotalVariation)
        if cheap and not (recovered and equations.kinked):  # averages need no Jacobian and do better on kinks
            return gauss_newton(equations, prior, self.max_steps, memory / 4, budget)
        if not isinstance(prior, TotalVariation):
            raise ValueError(
                f"the prior {self.prior!r} needs {needed / 1e9:.1f} GB here; allow for it or take colour_tv"
            )
        if recovered or not equations.kinked:
            return gauss_newton_cg(equations, prior, self.max_steps, memory / 4, budget)
        # Without a Jacobian to probe, every equation jumps far from the image: begin near it.
        warm = CosineTV(iterations=WARMING)
        found = warm.reconstruct(shared, budget)
        begin = shared.to_image(found.x.detach()).to(torch.float64)
        solution = gauss_newton_cg(equations, prior, self.max_steps, memory / 4, budget, begin)
        reached = shared.to_input(solution.image.reshape(equations.shape))
        if solution.steps and warm.objective(shared, reached) <= found.residual:
            return solution
        why = "no step from the first-order start improved on it" if solution.steps else solution.ended
        ended = f"{why}: {found.ended}"
        return replace(solution, image=begin.flatten(), r=equations.residual(begin), converged=False, ended=ended)


def _equations(seen: Observation, relative_error: float) -> Equations:
    """One image's: those of a chain that Lemma 3.1 opens, of a network that opens from its end, or of its gradient."""
    try:
        return peel_layers(seen, relative_error)
    except UnreadableNetwork:
        recovered = recover_backwards(seen, relative_error)
        known = [layer.input.value.numel() for layer in recovered[1:] if layer.input.basis is None]
        if known and known[-1] >= math.prod(seen.input_shape):  # fewer say less than all gradients do
            return RecoveredInputEquations(seen, recovered, relative_error)
        return AutogradEquations(seen, relative_error)
