"""Activations averaged over an uncertain input: a kink becomes a bend as wide as its input is uncertain.

With z known to a standard deviation s, a rectifier of slope c above its kink is on average

    E max(z + s ξ, 0) = z Φ(z/s) + s φ(z/s),        its slope  Φ(z/s),

φ and Φ being the normal density and distribution. A step that linearises these knows that undecided units may switch
(García-Fernández et al. 2015, posterior linearisation); as s falls, they become the activation itself (docs/method.md,
section 5.12, (M46)).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.networks.activations import Activation


def gaussian_smoothed(activation: Activation, spread: Tensor, least: float = 1e-9) -> Activation:
    """The activation averaged over its input's spread, as far as its kink at zero goes; itself where it has none.

    Args:
        activation: σ.
        spread: Standard deviation of each input, shaped like the inputs.
        least: Least spread, and where the slopes on the two sides of zero are read: far below any input that counts.

    >>> from leakage_audit.networks.activations import from_function
    >>> gaussian_smoothed(from_function("relu", (), {}), torch.ones(1)).forward(torch.zeros(1))  # φ(0)
    tensor([0.3989])
    """
    below, above = activation.derivative(torch.tensor([-least, least], dtype=spread.dtype, device=spread.device))
    jump = float(above - below)
    if activation.smooth or jump == 0:
        return activation
    s = spread.clamp_min(least)

    def forward(z: Tensor) -> Tensor:
        density = torch.exp(-(z / s).square() / 2) / math.sqrt(2 * math.pi)
        return activation.forward(z) + jump * (z * _share(z / s) + s * density - z.clamp_min(0))

    def derivative(z: Tensor) -> Tensor:
        return activation.derivative(z) + jump * (_share(z / s) - (z > 0).to(z.dtype))

    return replace(activation, forward=forward, derivative=derivative, smooth=True)


def _share(t: Tensor) -> Tensor:
    """Φ(t)."""
    return torch.erfc(-t / math.sqrt(2)) / 2
