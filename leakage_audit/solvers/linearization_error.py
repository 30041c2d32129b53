"""How far to trust a linearisation: each equation's error, measured rather than assumed.

A Gauss-Newton step treats the equations as linear. What they miss of that is noise to the step, and an equation that
bends much, or jumps where a rectifier switches, must count for less than one that is straight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.equations.base import Equations, rms
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gaussian_update import GaussianUpdate

FIRST = 0.03  # error expected of the first linearisation of a smooth network (targets being 1)
SHRINK = 0.3  # a step errs by this share of what the step before it erred: steps grow smaller
STRAIGHT = 1e-5  # error of a linearisation (root mean square, targets being 1) that is good for the next step too
PROBES = 32  # perturbations an estimate averages over
SHARE = 0.5  # the first probes are as long as would explain this share of the straightest block's residual
POOL = 0.1  # part of an equation's variance that it takes from its block, as few probes may miss its jump
WIDEN = 2.0  # later probes are this much longer than the posterior says, which knows too little of its own errors
BEHIND = 0.5  # and at least this share of the last step: while steps are long the image is that wrong


@dataclass(frozen=True)
class LocalModel:
    """F near an image, as a step may use it.

    Attributes:
        r: F at the image, `(m,)`; on kinked equations its average over where the image may be.
        jacobian: `(m, n)`.
        variance: Of what F and this differ by, `(m,)`.
    """

    r: Tensor
    jacobian: Tensor
    variance: Tensor


class SmoothErrorModel:
    """Smooth equations: a step's linearisation errs by a share of what the last step's was off by.

    Args:
        equations: F.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit.
    """

    def __init__(self, equations: Equations, memory: float, budget: Budget) -> None:
        self._equations, self._memory, self._budget = equations, memory, budget

    def first(self, image: Tensor) -> LocalModel:
        """Around the start."""
        r, jacobian = self._equations.linearize(image, self._memory, self._budget)
        return LocalModel(r, jacobian, torch.full_like(r, 0.0 if self._equations.linear else FIRST**2))

    def update(self, last: LocalModel, step: GaussianUpdate, image: Tensor, r: Tensor) -> LocalModel:
        """Around `image`, where F is `r`, to which a step with the `last` linearisation led."""
        error = rms(r - last.r - last.jacobian @ (image - step.origin))
        variance = torch.full_like(r, (SHRINK * error) ** 2)
        if error <= STRAIGHT:
            return LocalModel(r, last.jacobian, variance)
        return LocalModel(*self._equations.linearize(image, self._memory, self._budget), variance)


class NonsmoothErrorModel:
    """Equations with kinks and jumps, probed where the image may be.

    The first probes are random perturbations that would explain part of the residual of those equations that are
    continuous. Later ones are drawn from the last step's posterior, where that fits in memory: they are long in the
    directions that the equations leave open, and there the units switch. An equation whose jump lies nearby gets the
    variance of that jump (METHOD, section 5, "Kinks", without looking into the network), and equations that know their
    kinks round them off as far.

    Args:
        equations: F.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit.
        seed: Of the probes.
    """

    def __init__(self, equations: Equations, memory: float, budget: Budget, seed: int = 0) -> None:
        self._equations, self._memory, self._budget = equations, memory, budget
        self._generator = torch.Generator().manual_seed(seed)

    def first(self, image: Tensor) -> LocalModel:
        """Around the start."""
        r, jacobian = self._equations.linearize(image, self._memory, self._budget)
        return LocalModel(r, jacobian, self._variance(image, r, jacobian, self._all_ways(r, jacobian)))

    def update(self, last: LocalModel, step: GaussianUpdate, image: Tensor, r: Tensor) -> LocalModel:
        """Around `image`, where F is `r`, to which `step` with the `last` linearisation led."""
        if step.dual and 24 * len(image) ** 2 > self._memory:  # three matrices between pixels would not fit
            perturbations = self._all_ways(last.r, last.jacobian)
        else:
            perturbations = step.sample(PROBES, self._generator)
            perturbations *= max(WIDEN, BEHIND * rms(image - step.origin) / rms(perturbations))
        near = self._equations.smoothed(image, perturbations)
        r, jacobian = near.linearize(image, self._memory, self._budget)
        return LocalModel(r, jacobian, self._variance(image, r, jacobian, perturbations))

    def _all_ways(self, r: Tensor, jacobian: Tensor) -> Tensor:
        """Perturbations of all directions alike, long enough to explain part of the straightest block's residual."""
        probes = torch.randn(PROBES, jacobian.shape[1], generator=self._generator, dtype=torch.float64).to(r)
        return perturbation_scale(r, probes @ jacobian.T, self._equations.sizes) * probes

    def _variance(self, image: Tensor, r: Tensor, jacobian: Tensor, perturbations: Tensor) -> Tensor:
        """Mean over the moves of `(F(image + move) − r − J move)²`, smoothed over each block, `(m,)`."""
        found = torch.stack([self._equations.residual(image + perturbation) for perturbation in perturbations])
        return shrink_to_block_mean((found - r - perturbations @ jacobian.T).square().mean(0), self._equations.sizes)


def perturbation_scale(r: Tensor, straight: Tensor, sizes: list[int]) -> float:
    """Factor by which moves of the image would explain `SHARE` of the straightest block's residual.

    Args:
        r: The residual, `(m,)`.
        straight: What each move changes of it, `(moves, m)`, if the equations were straight.
        sizes: Of the blocks.
    """
    blocks = [(rms(a), rms(b)) for a, b in zip(r.split(sizes), straight.split(sizes, 1), strict=True)]
    return SHARE * min((a / b for a, b in blocks if b > 1e-6), default=0.0)


def shrink_to_block_mean(variance: Tensor, sizes: list[int]) -> Tensor:
    """The variance of each equation, `POOL` of it taken from its block, `(m,)`."""
    means = torch.cat([b.mean().expand_as(b) for b in variance.split(sizes)])
    return (1 - POOL) * variance + POOL * means
