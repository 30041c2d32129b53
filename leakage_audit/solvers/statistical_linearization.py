"""Kinked equations as a step without a Jacobian may use them: averaged over where the image may be.

Where a unit may be on or off, F has no useful derivative; its average over images around the present one has. With
random moves m_k of the size of the error, `r = mean F(x + m_k)`, `J = mean F'(x + m_k)` and each equation errs by
`mean (F(x + m_k) − r − J m_k)²` (statistical linearisation, Arasaratnam & Haykin 2009; docs/method.md, section 5.11).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from leakage_audit.equations.base import EVALUATION, PRODUCT, Equations
from leakage_audit.solvers.linearization_error import perturbation_scale, shrink_to_block_mean
from leakage_audit.solvers.options import LinearizationOptions


@dataclass(frozen=True)
class MatrixFreeModel:
    """F near an image.

    Attributes:
        r: F there, `(m,)`.
        jvp: Multiplies `(n,)` by J.
        vjp: Multiplies `(m,)` by Jᵀ.
        variance: Of what F and this linearisation differ by, `(m,)`.
    """

    r: Tensor
    jvp: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor], Tensor]
    variance: Tensor


class PointLinearization:
    """F as it is at the image.

    Args:
        equations: F, which know the clock.
    """

    def __init__(self, equations: Equations) -> None:
        self._equations = equations

    def __call__(self, image: Tensor, r: Tensor) -> MatrixFreeModel:
        """Around `image (n,)`, where F is `r`.

        Raises:
            OutOfTime: If there is not enough time left; likewise the products.
        """
        clock = self._equations.budget
        with clock.work(kind=EVALUATION):
            _, transposed = torch.func.vjp(self._equations.residual, image)[:2]

        def push(v: Tensor) -> Tensor:
            with clock.work(PRODUCT, EVALUATION):
                return self._equations.jvp(image, v).detach()

        def pull(u: Tensor) -> Tensor:
            with clock.work(PRODUCT, EVALUATION):
                return transposed(u)[0].detach()

        return MatrixFreeModel(r, push, pull, torch.zeros_like(r))


class StatisticalLinearization:
    """F averaged over moves as long as the image is presumably wrong.

    Args:
        equations: F.
        options: How many moves, and how long.
        seed: Of the moves.
    """

    def __init__(self, equations: Equations, options: LinearizationOptions | None = None, seed: int = 0) -> None:
        self._equations, self._options = equations, options or LinearizationOptions()
        self._generator = torch.Generator().manual_seed(seed)

    @staticmethod
    def affordable(equations: Equations, memory: float, perturbations: int) -> bool:
        """Whether passes at so many images at once fit into this many bytes."""
        return 8 * perturbations * equations.memory_estimate <= memory

    def __call__(self, image: Tensor, r: Tensor) -> MatrixFreeModel:
        """Around `image (n,)`, where F is `r`.

        Raises:
            OutOfTime: If there is not enough time left; likewise the products.
        """
        equations, sizes = self._equations, self._equations.sizes
        options, count = self._options, self._options.perturbations
        perturbations = torch.randn(count // 2, len(image), generator=self._generator, dtype=image.dtype).to(image)
        clock = equations.budget
        with clock.work(len(perturbations) * PRODUCT, EVALUATION):
            straight = torch.stack([equations.jvp(image, perturbation) for perturbation in perturbations]).detach()
        perturbations *= perturbation_scale(r, straight, sizes, options.explained, options.flat)
        perturbations = torch.cat([perturbations, -perturbations])
        with clock.work(count, EVALUATION):
            found, back = torch.func.vjp(vmap(equations.residual), image + perturbations)[:2]
        found = found.detach()
        mean = found.mean(0)

        def jvp(v: Tensor) -> Tensor:
            with clock.work(count * PRODUCT, EVALUATION):
                return vmap(equations.jvp, (0, None))(image + perturbations, v).mean(0).detach()

        def transposed(u: Tensor) -> Tensor:
            with clock.work(count * PRODUCT, EVALUATION):
                return back(u.expand(count, -1) / count)[0].sum(0).detach()

        there = torch.stack([jvp(perturbation) for perturbation in perturbations[: count // 2]])
        variance = (found - mean - torch.cat([there, -there])).square().mean(0)
        return MatrixFreeModel(mean, jvp, transposed, shrink_to_block_mean(variance, sizes, options.pool))
