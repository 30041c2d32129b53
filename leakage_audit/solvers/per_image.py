"""A separated batch solved image by image, where each image's own features determine it.

The gradients below the last layer are sums over the images and couple them. Where the features alone suffice nothing
is lost without these: time and memory are those of single images, and the gradients are left over as a check
(docs/method.md, section 5.7).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.base import Equations, rms
from leakage_audit.equations.batch_separation import SeparatedBatch
from leakage_audit.observation import Observation
from leakage_audit.priors import Tikhonov
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.gaussian_update import GaussianUpdate
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status


def may_be_solved_per_image(seen: Observation, separated: SeparatedBatch) -> bool:
    """Whether there are as many features as unknowns, and no layer that mixes the images."""
    mixes = any(isinstance(module, _BatchNorm) and module.training for module in seen.network.modules())
    return separated.features.shape[1] >= math.prod(seen.input_shape) and not mixes


def observations(seen: Observation, separated: SeparatedBatch) -> Iterator[tuple[Observation, float]]:
    """What the network's last layer would have shared of each image alone, and the relative error of that.

    Args:
        seen: What leaked of the batch, from a network that ends in the layer by which it was separated.
        separated: What follows of each image.
    """
    weight, bias = (f"{separated.layer}.{kind}" if separated.layer else kind for kind in ("weight", "bias"))
    for delta, h, noise, label in zip(
        separated.delta, separated.features, separated.noise, separated.labels, strict=True
    ):
        gradients = {weight: torch.outer(delta, h), bias: delta}
        yield replace(seen, gradients=gradients, batch_size=1, labels=label[None]), float(noise) / rms(h)


def solve_per_image(
    batch: Equations,
    singles: Iterator[Equations],
    solve: Callable[[Equations], Solution],
    memory: float,
    budget: Budget,
    options: SolverOptions | None = None,
) -> Solution | None:
    """Solve for each image, then hold all of them against the batch's own equations.

    Args:
        batch: The equations of all images, with what couples them.
        singles: The equations of each image.
        solve: Solves for one image.
        memory: Bytes that the passes of one image's last Jacobian may take.
        budget: Time limit; when it is spent the images not yet found are grey.
        options: What counts as solved.

    Returns:
        None if an image's own equations do not determine it, or the batch's do not hold.
    """
    options = options or SolverOptions()
    found: list[tuple[Equations, Solution]] = []
    for single in singles:
        one = solve(single)
        in_time = one.status is not Status.TIME_UP and not budget.exhausted
        if in_time and not (one.solved and one.rank == len(one.image)):
            return None
        found.append((single, one))
    image = torch.cat([one.image for _, one in found])
    r = batch.residual(image)
    solved = all(one.solved for _, one in found)
    floor, noise = batch.noise.clamp_min(options.floor), options.stopping.noise
    if solved and rms(r) > noise * float(floor.min()):
        sharper = torch.cat([_without_doubt(single, one.image, memory, options.floor) for single, one in found])
        new_r = batch.residual(sharper)
        image, r = (sharper, new_r) if rms(new_r) < rms(r) else (image, r)
    if solved and rms(r) > max(options.stopping.solved, noise * rms(floor)):
        return None
    return Solution(
        image=image,
        r=r,
        std=torch.cat([one.std for _, one in found]),
        rank=sum(one.rank or 0 for _, one in found),
        steps=max(one.steps for _, one in found),
        status=Status.EACH_SOLVED if solved else Status.TIME_UP,
    )


def _without_doubt(single: Equations, image: Tensor, memory: float, floor: float) -> Tensor:
    """One step more that trusts the equations beyond the noise they may have, which bounds from above."""
    r, jacobian = single.linearize(image, memory)
    return GaussianUpdate(image, r, jacobian, torch.full_like(r, floor**2), Tikhonov().local_gaussian(image)).image
