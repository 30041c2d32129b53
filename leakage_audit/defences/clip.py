"""Clipping: a gradient that is too long is made shorter, its direction kept."""

import math
from typing import Literal

import torch

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.shared import Shared


class Clip(Mechanism):
    """Shorten the gradient to a highest Euclidean norm, as a whole or layer by layer.

    `g ← g · min(1, bound/‖g‖)`. As a whole it changes nothing for an attacker who looks at directions, or solves for
    the image whatever the scale; by layer each parameter has a factor of its own, which one who knows it undoes.

    Args:
        bound: Highest norm; infinite does nothing.
        by: `whole`: of all parameters together; `layer`: of each parameter by itself.

    Raises:
        ValueError: If a setting is out of its range.

    >>> import torch
    >>> shared = Clip(1.0)(Shared.of({"w": torch.tensor([3.0, 4.0])}), torch.Generator())
    >>> shared.gradients["w"]
    tensor([0.6000, 0.8000])
    """

    def __init__(self, bound: float = 1.0, by: Literal["whole", "layer"] = "whole") -> None:
        if not bound > 0:
            raise ValueError(f"clip must be positive, got {bound}; leave it out where nothing is to be clipped")
        if by not in ("whole", "layer"):
            raise ValueError(f"by must be whole or layer, got {by!r}")
        self.bound, self.by = bound, by

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Clip."""
        squares = {name: float(g.double().square().sum()) for name, g in shared.gradients.items()}
        whole = math.sqrt(sum(squares.values()))
        norms = {name: whole if self.by == "whole" else math.sqrt(square) for name, square in squares.items()}
        return shared.scaled({name: 1.0 if norm <= self.bound else self.bound / norm for name, norm in norms.items()})
