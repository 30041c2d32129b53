"""Whether equations are smooth, told from their values alone (docs/method.md, section 5.13)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.options import Checked
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class SmoothnessOptions(Checked):
    """How kinks and jumps are looked for.

    Attributes:
        draws: Images and directions tried; some unit of every layer switches in sixteen.
        spread: Standard deviation of the images around grey, where units without biases all sit on their kinks; a
            photograph's.
        length: Of the longer perturbation, a few grey levels: units near their kinks switch.
        ratio: By how much the shorter one is shorter; second differences of smooth equations shrink by its square.
        factor: Root mean squares of second differences that shrink by less have a jump, as the derivative of a kink
            has: eight times shorter, smooth ones shrink by 64, jumps by √8; about the geometric mean. A kink whose
            derivative is in no equation shrinks by 8^1.5 = 23 and passes for smooth: a linearisation survives it.
        rounding: Root mean square of second differences, targets being 1, up to which they are the last digits'.
        evident: Share of `factor` below which no more draws are needed: second differences of kinks alone shrink by
            `ratio` at least, at whatever distance from the kink they are taken.
    """

    draws: int = 16
    spread: float = 0.2
    length: float = 0.03
    ratio: float = 8.0
    factor: float = 12.0
    rounding: float = 1e-10
    evident: float = 0.5

    def __post_init__(self) -> None:
        self.check(("draws", "spread", "length", "ratio", "factor"), ("rounding",), ("evident",))


def has_kinks(
    residual: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    sizes: list[int],
    like: Tensor,
    options: SmoothnessOptions | None = None,
    budget: Budget | None = None,
) -> bool:
    """Whether some block of equations has kinks or jumps, from how its second differences shrink with the step.

    Args:
        residual: The equations, `(n,)` to `(m,)`; may end by itself where there is no time.
        shape: Of the image, n numbers.
        sizes: Of the blocks, m in all.
        like: A tensor on the device and of the type of the image.
        options: How to look.
        budget: Time limit; none by default.

    Raises:
        TimeoutError: If the time is up before it is known.

    >>> like = torch.zeros(1, dtype=torch.float64)
    >>> has_kinks(torch.sin, (1, 3, 4, 4), [48], like)
    False
    >>> has_kinks(lambda x: (x - 0.5).sign(), (1, 3, 4, 4), [48], like)
    True
    """
    options, budget = options or SmoothnessOptions(), budget or Budget()
    generator = torch.Generator().manual_seed(0)
    n = math.prod(shape)
    long, short = torch.zeros(2, len(sizes))
    for _ in range(options.draws):
        if budget.exhausted:
            raise TimeoutError("the time was up")
        image, direction = (torch.randn(n, generator=generator, dtype=torch.float64).to(like) for _ in range(2))
        image = GREY + options.spread * image
        r = residual(image)
        second = [
            residual(image + size * direction) + residual(image - size * direction) - 2 * r
            for size in (options.length, options.length / options.ratio)
        ]
        per_block = torch.tensor([[float(b.square().mean()) for b in s.split(sizes)] for s in second])
        long, short = long + per_block[0], short + per_block[1]  # sums over the draws
        if _jumps(long, short, options, options.evident * options.factor):
            return True
    return _jumps(long, short, options, options.factor)


def _jumps(long: torch.Tensor, short: torch.Tensor, options: SmoothnessOptions, factor: float) -> bool:
    return bool(torch.any((short > options.rounding**2) & (long < factor**2 * short)))
