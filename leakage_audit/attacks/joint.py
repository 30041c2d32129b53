"""Joint: solve all layers' systems at once, as equations in the image."""

import torch
from torch import Tensor

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.budget import Budget
from leakage_audit.chain_equations import open_chain
from leakage_audit.equations import Equations
from leakage_audit.gauss_newton import Step, rank
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY, PRIORS, Prior

FIRST_ERROR = 0.03  # error expected of the first linearisation (root mean square, targets being 1)
SHRINK = 0.3  # a step's linearisation errs by this share of what the step before it erred: steps grow smaller
STRAIGHT = 1e-5  # error of a linearisation below which it is good for the next step too
SOLVED = 1e-4  # residual (root mean square, targets being 1) below which the equations count as solved
SETTLED = 1.5e-3  # change of the image (root mean square, grey levels in [0, 1]) below which it has settled
PINNED = 0.5 / 255  # an entry is pinned down when its standard deviation is below half a grey level of eight bits
RANK_TOLERANCE = 1e-6
FLOOR = 1e-7  # least noise (targets being 1) for which the normal equations hold in float64


class Joint(Attack):
    """Gauss-Newton on everything the gradients tell, under a prior on the image.

    Each step linearises all equations at the present image and takes the most probable image under the prior, the
    equations being trusted to their noise and to the size of the residual; the prior is asked anew at each image
    (`priors`). `residual` is the root mean square of the equations, each block scaled to targets of unit size.

    `details` holds `steps`, `rank` (of the Jacobian at the end), `joint_deficiency` (rank − unknowns), `pinned`
    (entries known to half a grey level), `std` (standard deviation of each entry under the local linear model,
    `(B, C, H, W)`), `equations` and `unknowns`.

    Args:
        prior: `colour_tv`, `tv` or `none`.
        max_steps: Most Gauss-Newton steps.
        max_memory_gb: Memory that Jacobian and normal equations may take.

    Raises:
        ValueError: If there is no such prior, or a number is not positive.
    """

    name = "joint"

    def __init__(self, prior: str = "colour_tv", max_steps: int = 30, max_memory_gb: float = 2.0) -> None:
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}")
        if max_steps < 1 or not max_memory_gb > 0:
            raise ValueError(f"max_steps and max_memory_gb must be positive, got {max_steps} and {max_memory_gb}")
        self.prior, self.max_steps, self.max_memory_gb = prior, max_steps, max_memory_gb

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Step until the image settles with its equations solved, or the residual stalls."""
        rounding = torch.finfo(seen.dtype).eps
        seen = seen.to(torch.float64)
        equations = open_chain(seen, rounding)
        return solve(equations, PRIORS[self.prior](), self.max_steps, budget)


def solve(equations: Equations, prior: Prior, max_steps: int, budget: Budget) -> Found:
    """Gauss-Newton from grey."""
    image = torch.full(equations.shape, GREY, dtype=torch.float64, device=equations.noise.device).flatten()
    floor = equations.noise.clamp_min(FLOOR)
    chunk = 64
    r, jacobian = equations.linearise(image, chunk)
    error = torch.zeros_like(r) if equations.linear else torch.full_like(r, FIRST_ERROR)
    ended, converged, steps, step = "the time was up", False, 0, None
    for _ in budget.steps(max_steps, "Joint"):
        steps += 1
        step = Step(image, r, jacobian, floor**2 + error**2, prior.around(image.reshape(equations.shape)))
        new, new_r = _backtrack(equations, image, r, step.image, floor)
        bend = new_r - r - jacobian @ (new - image)
        change, image, r = _rms(new - image), new, new_r
        if change < SETTLED and _rms(r) <= max(SOLVED, 3 * _rms(floor)):
            ended, converged = "the image settled with its equations solved", True
            break
        error = torch.full_like(r, SHRINK * _rms(bend))
        if _rms(bend) > STRAIGHT:
            r, jacobian = equations.linearise(image, chunk)
    else:
        if steps == max_steps:
            ended = f"{max_steps} steps were not enough"
    found = rank(jacobian, RANK_TOLERANCE)
    std = step.deviation() if step is not None else torch.full_like(image, torch.nan)
    return Found(
        x=equations.seen.to_input(image.reshape(equations.shape)),
        converged=converged,
        ended=ended,
        residual=_rms(r),
        details={
            "steps": steps,
            "rank": found,
            "joint_deficiency": found - len(image),
            "pinned": int((std < PINNED).sum()),
            "std": std.reshape(equations.shape),
            "equations": len(r),
            "unknowns": len(image),
        },
    )


def _backtrack(equations: Equations, image: Tensor, r: Tensor, goal: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The longest of a few moves towards `goal` that makes the residual no worse, or solves the equations."""
    best = None
    for share in (1.0, 0.5, 0.25, 0.125):
        new = image + share * (goal - image)
        new_r = equations.residual(new)
        if _rms(new_r) < max(_rms(r), 3 * _rms(floor), SOLVED):
            return new, new_r
        if best is None or _rms(new_r) < _rms(best[1]):
            best = new, new_r
    assert best is not None
    return best


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
