"""Images whose scale the gradient hides: layers that divide it out, and what an attacker knows of it all the same.

Batch normalisation by the batch's own statistics (or by groups, or by instances) divides by what scales the images
around the network's zero, x = z + s (x* − z). The gradient is then the same for every s up to the layer's ε,

    J (x* − z) ≈ 0,        and so    J (x̂ − x*) = 0  for  x̂ = z:

to first order grey, the picture that the prior likes best, explains the gradient as well as the images do, and with the
scale everything else of them would be lost, though an attack that starts from an ordinary contrast finds it. What adds
a constant to a colour is taken away likewise where no padding shows it. These are numbers, one and one a colour.
Attackers know them about, from other images or as values fill [0, 1], so they are granted: what is then the limit is a
ceiling for those who must guess them.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from leakage_audit.runtime import Budget

Gradient = Callable[[Tensor], dict[str, Tensor]]
CONTRAST, COLOUR = "contrast", "mean of channel {}"  # their names among the gradients
PASS = "limit: gradient"  # one evaluation of it in double precision


def hidden_numbers(
    gradient: Gradient,
    images: Tensor,
    zero: Tensor,
    std: Mapping[str, Tensor],
    share: float,
    difference: float,
    budget: Budget,
    kind: str = PASS,
) -> dict[str, Tensor]:
    """What the gradient hides of contrast and colours, as functionals `(B, C, H, W)` of norm one, by name.

    It hides a change of the images that changes it far less than a picture of the same frequencies does. Changes are
    differences of the gradient itself: they take no graph of its derivative, which may be as large as all else.

    Args:
        gradient: ∂L/∂p by name as a function of the images, in float64.
        images: At which it is taken, `(B, C, H, W)`.
        zero: What the network takes for 0, for broadcasting.
        std: Standard deviation of each gradient's entries; gradients not named are left out.
        share: Most of the mirrored images' effect, at the same norm, that counts as hidden.
        difference: Of the images, relative to their norm.
        budget: Time; asked before each evaluation.
        kind: Of work that an evaluation is, for the budget.

    Raises:
        OutOfTime: If the time was up before it was known.

    >>> generator = torch.Generator().manual_seed(0)
    >>> image, std = torch.rand(1, 1, 4, 4, generator=generator, dtype=torch.float64), {"layer": torch.tensor(1.0)}
    >>> def hides(gradient):
    ...     return list(hidden_numbers(gradient, image, torch.zeros(()), std, 0.05, 1e-8, Budget()))
    >>> hides(lambda x: {"layer": x.flatten() ** 2}), hides(lambda x: {"layer": x.flatten() / x.norm()})
    ([], ['contrast'])
    """
    if not std or share == 0:
        return {}

    def at(x: Tensor) -> dict[str, Tensor]:
        with budget.work(kind=kind):
            return {name: g.detach() for name, g in gradient(x).items() if name in std}

    here, length = at(images), difference * images.norm()

    def effect(change: Tensor) -> float:
        unit = change / change.norm().clamp_min(torch.finfo(change.dtype).tiny)
        there = at(images + length * unit)
        return float(sum(((there[name] - here[name]) / std[name]).square().sum() for name in std)) ** 0.5

    least = share * effect((images - zero).flip(-1))
    found = {}
    if effect(images - zero) < least:
        varied = images - images.mean((2, 3), keepdim=True)  # which no constant stands in for
        found[CONTRAST] = varied / varied.norm().clamp_min(torch.finfo(varied.dtype).tiny)
    for k in range(images.shape[1]):
        constant = torch.zeros_like(images)
        constant[:, k] = 1
        if effect(constant) < least:
            found[COLOUR.format(k)] = constant / constant.norm()
    return found


def with_numbers(gradient: Gradient, numbers: Mapping[str, Tensor]) -> Gradient:
    """The same gradient, and beside it the values `(1,)` of functionals of the images."""

    def told(x: Tensor) -> dict[str, Tensor]:
        return gradient(x) | {name: (functional * x).sum()[None] for name, functional in numbers.items()}

    return told
