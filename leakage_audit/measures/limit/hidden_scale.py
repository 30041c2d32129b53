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

from leakage_audit.measures.limit.linearized_gradient import LinearizedGradient

Gradient = Callable[[Tensor], dict[str, Tensor]]
CONTRAST, COLOUR = "contrast", "mean of channel {}"  # their names among the gradients


def hidden_numbers(linear: LinearizedGradient, images: Tensor, zero: Tensor, share: float) -> dict[str, Tensor]:
    """What the gradient hides of contrast and colours, as functionals `(B, C, H, W)` of norm one, by name.

    It hides a change of the images that changes it far less than a picture of the same frequencies does.

    Args:
        linear: J.
        images: At which it was taken, `(B, C, H, W)`.
        zero: What the network takes for 0, for broadcasting.
        share: Most of the mirrored images' effect, at the same norm, that counts as hidden.

    >>> from leakage_audit.measures.limit.options import LimitOptions
    >>> generator = torch.Generator().manual_seed(0)
    >>> image = torch.rand(1, 1, 4, 4, generator=generator, dtype=torch.float64)
    >>> def hides(gradient):
    ...     linear = LinearizedGradient(image, gradient, {"layer": torch.tensor(1.0)}, 1, LimitOptions())
    ...     return list(hidden_numbers(linear, image, torch.zeros(()), 0.05))
    >>> hides(lambda x: {"layer": x.flatten() ** 2}), hides(lambda x: {"layer": x.flatten() / x.norm()})
    ([], ['contrast'])
    """
    if not linear.rows:
        return {}

    def effect(change: Tensor) -> float:
        return float(linear.push(change.flatten()).norm() / change.norm().clamp_min(torch.finfo(change.dtype).tiny))

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
