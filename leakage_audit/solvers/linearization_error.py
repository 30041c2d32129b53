"""How far to trust a linearisation: each equation's error, measured rather than assumed.

A Gauss-Newton step treats the equations as linear. What they miss of that is noise to the step, and an equation that
bends much, or jumps where a rectifier switches, must count for less than one that is straight (docs/method.md,
sections 5.10, (M44), and 5.11, (M45)).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.equations.base import Equations, rms
from leakage_audit.equations.separable_jacobian import SeparableJacobian, linearize_separably
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gaussian_update import GaussianUpdate
from leakage_audit.solvers.options import LinearizationOptions
from leakage_audit.solvers.separable_update import SeparableUpdate


@dataclass(frozen=True)
class LocalModel:
    """F near an image, as a step may use it.

    Attributes:
        r: F at the image, `(m,)`; on kinked equations its average over where the image may be.
        jacobian: `(m, n)`, by images where a batch came apart and its equations are smooth.
        variance: Of what F and this differ by, `(m,)`.
    """

    r: Tensor
    jacobian: Tensor | SeparableJacobian
    variance: Tensor


class SmoothErrorModel:
    """Smooth equations: a step's linearisation errs by a share of what the last step's was off by.

    Args:
        equations: F.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit.
        options: What the errors are taken to be.
    """

    def __init__(
        self, equations: Equations, memory: float, budget: Budget, options: LinearizationOptions | None = None
    ) -> None:
        self._equations, self._memory, self._budget = equations, memory, budget
        self._options = options or LinearizationOptions()

    def first(self, image: Tensor) -> LocalModel:
        """Around the start."""
        r, jacobian = self._linearize(image)
        if self._equations.linear:
            return LocalModel(r, jacobian, torch.zeros_like(r))
        # Begun near a solution, a block errs by no more than it is off.
        most, blocks = self._options.first**2, r.split(self._equations.sizes)
        errors = [block.square().mean().clamp_max(most).expand_as(block) for block in blocks]
        return LocalModel(r, jacobian, torch.cat(errors))

    def _linearize(self, image: Tensor) -> tuple[Tensor, Tensor | SeparableJacobian]:
        equations = self._equations
        if equations.own_rows and len(equations.noise) <= len(image):
            return linearize_separably(equations, image, self._memory, self._budget)
        return equations.linearize(image, self._memory, self._budget)

    def update(self, last: LocalModel, step: GaussianUpdate | SeparableUpdate, image: Tensor, r: Tensor) -> LocalModel:
        """Around `image`, where F is `r`, to which a step with the `last` linearisation led."""
        error = rms(r - last.r - last.jacobian @ (image - step.origin))
        variance = torch.full_like(r, (self._options.shrink * error) ** 2)
        if error <= self._options.reuse:
            return LocalModel(r, last.jacobian, variance)
        return LocalModel(*self._linearize(image), variance)


class NonsmoothErrorModel:
    """Equations with kinks and jumps, probed where the image may be.

    The first probes are random perturbations that would explain part of the residual of those equations that are
    continuous. Later ones are drawn from the last step's posterior, where that fits in memory: they are long in the
    directions that the equations leave open, and there the units switch. An equation whose jump lies nearby gets the
    variance of that jump without a look into the network (docs/method.md, section 5.11, (M45)), and equations that know
    their kinks round them off as far.

    Args:
        equations: F.
        memory: Bytes that a Jacobian's passes may take.
        budget: Time limit.
        options: How many probes, and how long.
        seed: Of the probes.
    """

    def __init__(
        self,
        equations: Equations,
        memory: float,
        budget: Budget,
        options: LinearizationOptions | None = None,
        seed: int = 0,
    ) -> None:
        self._equations, self._memory, self._budget = equations, memory, budget
        self._options = options or LinearizationOptions()
        self._generator = torch.Generator().manual_seed(seed)

    def first(self, image: Tensor) -> LocalModel:
        """Around the start."""
        r, jacobian = self._equations.linearize(image, self._memory, self._budget)
        return LocalModel(r, jacobian, self._variance(image, r, jacobian, self._all_ways(r, jacobian)))

    def update(self, last: LocalModel, step: GaussianUpdate | SeparableUpdate, image: Tensor, r: Tensor) -> LocalModel:
        """Around `image`, where F is `r`, to which `step` with the `last` linearisation led."""
        assert isinstance(last.jacobian, Tensor)
        assert isinstance(step, GaussianUpdate)
        if step.dual and 24 * len(image) ** 2 > self._memory:  # three matrices between pixels would not fit
            perturbations = self._all_ways(last.r, last.jacobian)
        else:
            perturbations = step.sample(self._options.probes, self._generator)
            reach = self._options.behind * rms(image - step.origin) / rms(perturbations)
            perturbations *= max(self._options.widen, reach)
        near = self._equations.smoothed(image, perturbations)
        r, jacobian = near.linearize(image, self._memory, self._budget)
        return LocalModel(r, jacobian, self._variance(image, r, jacobian, perturbations))

    def _all_ways(self, r: Tensor, jacobian: Tensor) -> Tensor:
        """Perturbations of all directions alike, long enough to explain part of the straightest block's residual."""
        count, n = self._options.probes, jacobian.shape[1]
        probes = torch.randn(count, n, generator=self._generator, dtype=torch.float64).to(r)
        options, straight = self._options, probes @ jacobian.T
        return perturbation_scale(r, straight, self._equations.sizes, options.explained, options.flat) * probes

    def _variance(self, image: Tensor, r: Tensor, jacobian: Tensor, perturbations: Tensor) -> Tensor:
        """Mean over the moves of `(F(image + move) − r − J move)²`, smoothed over each block, `(m,)`."""
        found = torch.stack([self._equations.residual(image + perturbation) for perturbation in perturbations])
        variance = (found - r - perturbations @ jacobian.T).square().mean(0)
        return shrink_to_block_mean(variance, self._equations.sizes, self._options.pool)


def perturbation_scale(
    r: Tensor, straight: Tensor, sizes: list[int], explained: float, flat: float = LinearizationOptions.flat
) -> float:
    """Factor by which moves of the image would explain a share of the straightest block's residual.

    Args:
        r: The residual, `(m,)`.
        straight: What each move changes of it, `(moves, m)`, if the equations were straight.
        sizes: Of the blocks.
        explained: The share.
        flat: Root mean square of `straight` below which a block does not count.

    >>> r, straight = torch.tensor([1.0, 1.0, 3.0, 3.0]), torch.tensor([[2.0, 2.0, 1.0, 1.0]])
    >>> perturbation_scale(r, straight, [2, 2], explained=0.5)
    0.25
    """
    blocks = [(rms(a), rms(b)) for a, b in zip(r.split(sizes), straight.split(sizes, 1), strict=True)]
    return explained * min((a / b for a, b in blocks if b > flat), default=0.0)


def shrink_to_block_mean(variance: Tensor, sizes: list[int], pool: float) -> Tensor:
    """The variance of each equation, a share `pool` of it taken from its block, `(m,)`.

    >>> shrink_to_block_mean(torch.tensor([0.0, 4.0, 1.0]), [2, 1], pool=0.5)
    tensor([1., 3., 1.])
    """
    means = torch.cat([b.mean().expand_as(b) for b in variance.split(sizes)])
    return (1 - pool) * variance + pool * means
