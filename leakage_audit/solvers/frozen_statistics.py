"""Known inputs above batch statistics solved at statistics that are held still, and asked anew.

Batch normalisation in training mode forgets the contrast of its images: under a prior, which likes little of it, steps
on the equations as they are run away to grey. At given statistics each image is a problem by itself and has a contrast;
the images found have statistics of their own, which the next round holds still. What batch statistics add to
derivatives are sums that were shared (docs/method.md, section 10, (M80)). All rounds have photographs' contrast, as
nothing else speaks for any.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.options import Checked
from leakage_audit.priors import GREY, Prior
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status


@dataclass(frozen=True)
class FrozenOptions(Checked):
    """How the rounds go.

    Attributes:
        contrast: Root mean square by which all images together differ from what the network is fed zeros for.
        waves: Of the first images, at a scale; all scales alike, as in photographs.
        steps: Gauss-Newton steps a round.
        cheap: Rounds with the known inputs alone; their statistics are then those of recognisable images.
        rounds: With the gradients below, too, each several times as long.
    """

    contrast: float = 0.25
    waves: float = 0.1
    steps: int = 2
    cheap: int = 6
    rounds: int = 10

    def __post_init__(self) -> None:
        self.check(positive=("contrast", "waves", "steps"), not_negative=("cheap", "rounds"))


def at_frozen_statistics(
    equations: RecoveredInputEquations,
    prior: Prior,
    memory: float,
    budget: Budget,
    solver: SolverOptions | None = None,
    options: FrozenOptions | None = None,
) -> Solution:
    """Rounds of steps at the statistics of the last round's images.

    Args:
        equations: With a normalisation in training mode below what is known.
        prior: What images are like.
        memory: Bytes that passes at several images at once may take.
        budget: Time limit and progress report.
        solver: Tolerances of the steps.
        options: How the rounds go.
    """
    solver, options = solver or SolverOptions(), options or FrozenOptions()
    image = _first_images(equations, options)
    steps, status, kinked = 0, Status.MAX_STEPS, False
    for turn in budget.steps(options.cheap + options.rounds, "Joint"):
        frozen = equations.at_statistics_of(image, gradients=turn >= options.cheap)
        begin = None if turn == 0 else image.reshape(equations.shape)
        if turn:  # the network is the same, and to find out takes as long as a step
            frozen.kinked = kinked
        found = gauss_newton_cg(frozen, prior, options.steps, memory, budget, begin, solver)
        kinked = frozen.__dict__.get("kinked", False)
        frozen.close()
        if not found.steps:
            status = Status.TIME_UP
            break
        before, image, steps = image, _scaled(equations, found.image, options), steps + found.steps
        if turn > options.cheap and rms(image - before) < solver.stopping.settled_probed:
            status = Status.STALLED
            break
    else:
        status = Status.TIME_UP if budget.stopped else status
    r = equations.evaluate(image) if not budget.exhausted else torch.full_like(equations.noise, math.nan)
    if status is Status.STALLED and rms(r) <= solver.cg.stopping.solved:
        status = Status.SOLVED
    return Solution(image, r, torch.full_like(image, torch.nan), None, steps, status)


def _scaled(equations: RecoveredInputEquations, image: Tensor, options: FrozenOptions) -> Tensor:
    """Images of the contrast that was decided on; a network without offsets does not notice."""
    zero = equations.seen.to_image(torch.zeros(equations.shape).to(image)).flatten()
    contrast = rms(image - zero)
    return zero + (image - zero) * (options.contrast / contrast if contrast else 1.0)


def _first_images(equations: RecoveredInputEquations, options: FrozenOptions) -> Tensor:
    """Noise with the spectrum of photographs, `(n,)`: their normalised inputs have about photographs' statistics."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = equations.shape
    found = torch.full(equations.shape, GREY, dtype=torch.float64)
    side = 2
    while side <= max(height, width):
        coarse = torch.randn(batch, channels, side, side, generator=generator, dtype=torch.float64)
        found += options.waves * F.interpolate(coarse, (height, width), mode="bilinear")
        side *= 2
    return _scaled(equations, found.flatten().to(equations.noise), options)
