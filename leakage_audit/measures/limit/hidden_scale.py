"""Images whose scale the gradient hides: layers that divide it out, and what an attacker knows of it all the same.

Batch normalisation by the batch's own statistics (or by groups, or by instances) divides by what scales the images
around the network's zero, x = z + s (x* − z). The gradient is then the same for every s up to the layer's ε,

    J (x* − z) ≈ 0,        and so    J (x̂ − x*) = 0  for  x̂ = z:

to first order grey, the picture that the prior likes best, explains the gradient as well as the images do, and with the
scale everything else of them would be lost, though an attack that starts from an ordinary contrast finds it. The scale
is one number. Attackers know it about, from other images or as their values fill [0, 1], so it is granted: what is then
the limit is a ceiling for those who must guess it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from leakage_audit.measures.limit.linearized_gradient import LinearizedGradient

Gradient = Callable[[Tensor], dict[str, Tensor]]
SCALE = "scale of the images"  # its name among the gradients


def hides_scale(linear: LinearizedGradient, images: Tensor, zero: Tensor, share: float) -> bool:
    """Whether the gradient changes far less with the images' scale than with a picture of the same frequencies.

    Args:
        linear: J.
        images: At which it was taken, `(B, C, H, W)`.
        zero: What the network takes for 0, for broadcasting.
        share: Most of the mirrored images' effect that counts as hidden.

    >>> from leakage_audit.measures.limit.options import LimitOptions
    >>> image, one = torch.rand(1, 1, 4, 4, dtype=torch.float64), {"layer": torch.tensor(1.0)}
    >>> def hides(gradient):
    ...     return hides_scale(LinearizedGradient(image, gradient, one, 1, LimitOptions()), image, torch.zeros(()), 0.05)
    >>> hides(lambda x: {"layer": x.flatten() ** 2}), hides(lambda x: {"layer": x.flatten() / x.norm()})
    (False, True)
    """
    if not linear.rows:
        return False
    own = images - zero
    own, mirrored = (float(linear.push(x.flatten()).norm()) for x in (own, own.flip(-1)))
    return own < share * mirrored


def with_scale(gradient: Gradient, images: Tensor, zero: Tensor) -> Gradient:
    """The same gradient, and beside it the images' share of their own direction, which moves with their scale."""
    own = images - zero
    own = own / own.norm()

    def told(x: Tensor) -> dict[str, Tensor]:
        return gradient(x) | {SCALE: (own * x).sum()[None]}

    return told
