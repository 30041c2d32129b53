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

from leakage_audit.equations.base import Equations
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
        equations: F.
    """

    def __init__(self, equations: Equations) -> None:
        self._equations = equations

    def __call__(self, image: Tensor, r: Tensor) -> MatrixFreeModel:
        """Around `image (n,)`, where F is `r`."""
        _, transposed = torch.func.vjp(self._equations.residual, image)[:2]
        return MatrixFreeModel(
            r, lambda v: self._equations.jvp(image, v), lambda u: transposed(u)[0], torch.zeros_like(r)
        )


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
        """Around `image (n,)`, where F is `r`."""
        equations, sizes = self._equations, self._equations.sizes
        options, count = self._options, self._options.perturbations
        perturbations = torch.randn(count // 2, len(image), generator=self._generator, dtype=image.dtype).to(image)
        straight = torch.stack([equations.jvp(image, perturbation) for perturbation in perturbations])
        perturbations *= perturbation_scale(r, straight, sizes, options.explained, options.flat)
        perturbations = torch.cat([perturbations, -perturbations])
        found, back = torch.func.vjp(vmap(equations.residual), image + perturbations)[:2]
        mean = found.mean(0)

        def jvp(v: Tensor) -> Tensor:
            return vmap(equations.jvp, (0, None))(image + perturbations, v).mean(0)

        def transposed(u: Tensor) -> Tensor:
            return back(u.expand(count, -1) / count)[0].sum(0)

        there = torch.stack([jvp(perturbation) for perturbation in perturbations[: count // 2]])
        variance = (found - mean - torch.cat([there, -there])).square().mean(0)
        return MatrixFreeModel(mean, jvp, transposed, shrink_to_block_mean(variance, sizes, options.pool))
