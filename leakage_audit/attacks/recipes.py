"""How CosineTV may be run: the published recipes as a table, and the parts that they name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.matching.objective import cosine_distance, mean_cosine_distance
from leakage_audit.matching.total_variation import opponent_variation, total_variation


@dataclass(frozen=True)
class Recipe:
    """One way to run CosineTV.

    Attributes:
        iterations: Adam steps a start.
        restarts: Number of starts; the best by the attack's own objective counts.
        lr: Adam's step size at its highest.
        tv: Weight of the variation.
        features: Weight of the mean squared distance to the features that the last layer leaks.
        decay: How the step size falls, a name of `DECAYS`.
        sign: What happens to the objective's gradient before Adam sees it, a name of `SIGNS`.
        start: What the first candidate looks like, a name of `STARTS`.
        boxed: Whether each step ends inside the images' value range.
        distance: Between gradients, a name of `DISTANCES`.
        variation: Of the candidate, a name of `VARIATIONS`.
    """

    iterations: int
    restarts: int
    lr: float
    tv: float
    features: float
    decay: str
    sign: str
    start: str
    boxed: bool
    distance: str
    variation: str


PRESETS = {
    # What the authors of the paper ran as a baseline. Their script adds 0.01 TV once per parameter tensor to the sum
    # of the tensors' distances: the mean distance plus 0.01 TV, times the number of tensors, which Adam does not see.
    "paper": Recipe(4800, 1, 1e-3, 0.01, 0.0, "none", "none", "normal", False, "mean cosine", "plain"),
    # Geiping et al. 2020, "Inverting gradients": signed gradients, step decay, box, restarts.
    "original": Recipe(4800, 2, 0.1, 0.02, 0.0, "steps", "hard", "normal", True, "cosine", "plain"),
    # `modern` of the breaching framework, cut at 2000 steps: it has converged by then.
    "modern": Recipe(2000, 1, 0.1, 0.1, 0.1, "cosine", "soft", "tiled", True, "cosine", "opponent"),
}

# Step size as a share of its highest, at a share of the run in [0, 1). The cosine warms up for a fortieth of the run.
DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "steps": lambda done: 0.1 ** sum(done >= eighths / 8 for eighths in (3, 5, 7)),
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)) * min(1.0, 0.02 + 40 * done),
}

# The objective's gradient at a share of the run: as it is, its sign, or in between, the less the later.
SIGNS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda gradient, done: gradient,
    "hard": lambda gradient, done: gradient.sign(),
    "soft": lambda gradient, done: (gradient * (1 - done)).tanh() / (1 - done),
}


def tiled(shape: tuple[int, ...], generator: torch.Generator, tile: int = 4) -> Tensor:
    """Images `(B, C, H, W)` tiled from one normal pattern of `tile` × `tile` pixels each."""
    pattern = torch.randn(*shape[:2], tile, tile, generator=generator)
    rows, columns = (-(-side // tile) for side in shape[2:])
    return pattern.repeat(1, 1, rows, columns)[..., : shape[2], : shape[3]].contiguous()


# First candidates `(B, C, H, W)` in the network's input space.
STARTS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": lambda shape, generator: torch.randn(shape, generator=generator),
    "tiled": tiled,
}

DISTANCES: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]] = {
    "cosine": cosine_distance,
    "mean cosine": mean_cosine_distance,
}

VARIATIONS: dict[str, Callable[[Tensor], Tensor]] = {"plain": total_variation, "opponent": opponent_variation}
