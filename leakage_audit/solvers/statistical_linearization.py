"""Kinked equations as a step without a Jacobian may use them: averaged over where the image may be.

Where a unit may be on or off, F has no useful derivative; its average over images around the present one has. With
random moves m_k of the size of the error, `r = mean F(x + m_k)`, `J = mean F'(x + m_k)` and each equation errs by
`mean (F(x + m_k) − r − J m_k)²` (statistical linearisation, Arasaratnam & Haykin 2009).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp, vmap

from leakage_audit.equations.base import Equations
from leakage_audit.solvers.linearization_error import explaining, pooled

MOVES = 8  # images that an average is over: four moves there and back


@dataclass(frozen=True)
class Near:
    """F near an image.

    Attributes:
        r: F there, `(m,)`.
        push: Multiplies `(n,)` by J.
        pull: Multiplies `(m,)` by Jᵀ.
        variance: Of what F and this linearisation differ by, `(m,)`.
    """

    r: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]
    variance: Tensor


class Straight:
    """F as it is at the image.

    Args:
        equations: F.
    """

    def __init__(self, equations: Equations) -> None:
        self._equations = equations

    def __call__(self, image: Tensor, r: Tensor) -> Near:
        """Around `image (n,)`, where F is `r`."""
        _, pull = vjp(self._equations.residual, image)[:2]
        return Near(r, lambda v: self._equations.push(image, v), lambda u: pull(u)[0], torch.zeros_like(r))


class Average:
    """F averaged over moves as long as the image is presumably wrong.

    Args:
        equations: F.
        seed: Of the moves.
    """

    def __init__(self, equations: Equations, seed: int = 0) -> None:
        self._equations = equations
        self._generator = torch.Generator().manual_seed(seed)

    @staticmethod
    def affordable(equations: Equations, memory: float) -> bool:
        """Whether passes at all images at once fit into this many bytes."""
        return 8 * MOVES * equations.footprint <= memory

    def __call__(self, image: Tensor, r: Tensor) -> Near:
        """Around `image (n,)`, where F is `r`."""
        equations, sizes = self._equations, self._equations.sizes
        moves = torch.randn(MOVES // 2, len(image), generator=self._generator, dtype=image.dtype).to(image)
        straight = torch.stack([equations.push(image, move) for move in moves])
        moves *= explaining(r, straight, sizes)
        moves = torch.cat([moves, -moves])
        found, back = vjp(vmap(equations.residual), image + moves)[:2]
        mean = found.mean(0)

        def push(v: Tensor) -> Tensor:
            return vmap(equations.push, (0, None))(image + moves, v).mean(0)

        def pull(u: Tensor) -> Tensor:
            return back(u.expand(MOVES, -1) / MOVES)[0].sum(0)

        there = torch.stack([push(move) for move in moves[: MOVES // 2]])
        variance = (found - mean - torch.cat([there, -there])).square().mean(0)
        return Near(mean, push, pull, pooled(variance, sizes))
