"""How far to trust a linearisation: each equation's error, measured rather than assumed.

A Gauss-Newton step treats the equations as linear. What they miss of that is noise to the step, and an equation that
bends much, or jumps where a rectifier switches, must count for less than one that is straight.
"""

import math

import torch
from torch import Tensor

from leakage_audit.joint.equations import Equations
from leakage_audit.priors import GREY

FIRST = 0.03  # error expected of the first linearisation of a smooth network (targets being 1)
SHRINK = 0.3  # a step errs by this share of what the step before it erred: steps grow smaller
PROBES = 32  # perturbations an estimate averages over
SHARE = 0.5  # a probe is as long as would explain this share of the straightest block's residual
POOL = 0.1  # part of an equation's variance that it takes from its block, as few probes may miss its jump
KINKED = 12.0  # a probe eight times shorter errs 64 times less on a smooth network, about 3 to 20 times less on a kink


class Smooth:
    """Error of smooth equations: a share of what the last step's linearisation was off by.

    Attributes:
        variance: Of each equation, `(m,)`.
    """

    def __init__(self, equations: Equations, r: Tensor) -> None:
        self.variance = torch.zeros_like(r) if equations.linear else torch.full_like(r, FIRST**2)

    def update(self, image: Tensor, r: Tensor, jacobian: Tensor, bend: Tensor) -> None:
        """Learn from a step that was off by `bend`."""
        self.variance = torch.full_like(r, SHRINK**2 * float(bend.square().mean()))


class Kinked:
    """Error of equations with kinks and jumps, probed by random perturbations of the image.

    The perturbations are as large as the image is presumably wrong: large enough to explain part of the residual of
    those equations that are continuous. An equation whose jump lies nearby gets the variance of that jump (METHOD,
    section 5, "Kinks", without looking into the network).

    Attributes:
        variance: Of each equation, `(m,)`.
    """

    def __init__(self, equations: Equations, image: Tensor, r: Tensor, jacobian: Tensor, seed: int = 0) -> None:
        self._equations = equations
        self._generator = torch.Generator().manual_seed(seed)
        self.update(image, r, jacobian, torch.zeros_like(r))

    def update(self, image: Tensor, r: Tensor, jacobian: Tensor, bend: Tensor) -> None:
        """Probe around `image`, where the equations are `r` and their Jacobian `jacobian`."""
        probes = torch.randn(PROBES, len(image), generator=self._generator, dtype=image.dtype).to(image.device)
        linear = probes @ jacobian.T
        sizes = self._equations.sizes
        blocks = zip(r.split(sizes), linear.split(sizes, 1), strict=True)
        moved = [(float(a.square().mean()), float(b.square().mean())) for a, b in blocks]
        size = SHARE * min((a / b) ** 0.5 for a, b in moved if b > 1e-12)
        variance = _squared_errors(self._equations, image, r, size * probes, size * linear).mean(0)
        pooled = torch.cat([b.mean().expand_as(b) for b in variance.split(sizes)])
        trust = 0.1 * (0.3 * min(a for a, b in moved if b > 1e-12) ** 0.5) ** 2
        self.variance = (1 - POOL) * variance + POOL * pooled + trust


def is_kinked(equations: Equations, seed: int = 0) -> bool:
    """Whether some block of the equations has kinks or jumps, from how its second differences shrink with the step."""
    if equations.linear:
        return False
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(equations.shape)
    long, short = torch.zeros(2, len(equations.sizes))
    for _ in range(16):
        image, move = (torch.randn(n, generator=generator, dtype=torch.float64).to(equations.noise) for _ in range(2))
        image = GREY + 0.2 * image  # away from grey, where every unit of a network without biases sits on its kink
        r = equations.residual(image)
        second = [
            equations.residual(image + size * move) + equations.residual(image - size * move) - 2 * r
            for size in (0.03, 0.03 / 8)
        ]
        per_block = torch.tensor([[float(b.square().mean()) for b in s.split(equations.sizes)] for s in second])
        long, short = long + per_block[0], short + per_block[1]
    return bool(torch.any((short > 1e-20) & (long < KINKED**2 * short)))


def _squared_errors(equations: Equations, image: Tensor, r: Tensor, moves: Tensor, linear: Tensor) -> Tensor:
    """`(F(x + move) − F(x) − J move)²`, `(moves, m)`."""
    found = [equations.residual(image + move) - r - change for move, change in zip(moves, linear, strict=True)]
    return torch.stack(found).square()
