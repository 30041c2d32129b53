"""How CosineTV may be run: the published recipes as a table, and the parts that they name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leakage_audit.matching.objective import cosine_distance, mean_cosine_distance
from leakage_audit.matching.total_variation import opponent_variation, total_variation
from leakage_audit.options import Checked


@dataclass(frozen=True)
class Recipe(Checked):
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
        milestones: Shares of the run at which the decay in steps drops (Geiping et al.).
        drop: By this factor.
        warm_start: Share of the highest step size with which the decay by a cosine begins.
        warming: By how many times the highest step size it grows over the run, until it is reached: a fortieth of it.
        tile: Side of the pattern that a tiled start repeats, in pixels.
        floor: Added under the square root of the opponent variation, which has no derivative at zero.
        separation: Share of the time in which a batch's features may be told apart.

    Raises:
        ValueError: If a number is out of its range, or there is no part of that name.
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
    milestones: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    drop: float = 0.1
    warm_start: float = 0.02
    warming: float = 40.0
    tile: int = 4
    floor: float = 1e-8
    separation: float = 0.1

    def __post_init__(self) -> None:
        self.check(("iterations", "restarts", "lr", "tile", "floor"), ("tv", "features", "warm_start", "warming"))
        self.check(share=("milestones", "drop", "separation"))
        parts: dict[str, Mapping[str, Any]] = {
            "decay": DECAYS,
            "sign": SIGNS,
            "start": STARTS,
            "distance": DISTANCES,
            "variation": VARIATIONS,
        }
        for name, table in parts.items():
            if getattr(self, name) not in table:
                raise ValueError(f"Recipe.{name} must be one of {', '.join(table)}, got {getattr(self, name)!r}")


# Step size as a share of its highest, at a share of the run in [0, 1).
DECAYS: dict[str, Callable[[float, Recipe], float]] = {
    "none": lambda done, recipe: 1.0,
    "steps": lambda done, recipe: recipe.drop ** sum(done >= share for share in recipe.milestones),
    "cosine": lambda done, recipe: (
        0.5 * (1 + math.cos(math.pi * done)) * min(1.0, recipe.warm_start + recipe.warming * done)
    ),
}

# The objective's gradient at a share of the run: as it is, its sign, or in between, the less the later.
SIGNS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda gradient, done: gradient,
    "hard": lambda gradient, done: gradient.sign(),
    "soft": lambda gradient, done: (gradient * (1 - done)).tanh() / (1 - done),
}


def tiled(shape: tuple[int, ...], generator: torch.Generator, recipe: Recipe) -> Tensor:
    """Images `(B, C, H, W)` tiled from one normal pattern each."""
    pattern = torch.randn(*shape[:2], recipe.tile, recipe.tile, generator=generator)
    rows, columns = (-(-side // recipe.tile) for side in shape[2:])
    return pattern.repeat(1, 1, rows, columns)[..., : shape[2], : shape[3]].contiguous()


# First candidates `(B, C, H, W)` in the network's input space.
STARTS: dict[str, Callable[[tuple[int, ...], torch.Generator, Recipe], Tensor]] = {
    "normal": lambda shape, generator, recipe: torch.randn(shape, generator=generator),
    "tiled": tiled,
}

DISTANCES: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]] = {
    "cosine": cosine_distance,
    "mean cosine": mean_cosine_distance,
}

VARIATIONS: dict[str, Callable[[Tensor, Recipe], Tensor]] = {
    "plain": lambda x, recipe: total_variation(x),
    "opponent": lambda x, recipe: opponent_variation(x, recipe.floor),
}

PRESETS = {
    # What the authors of the paper ran as a baseline. Their script adds 0.01 TV once per parameter tensor to the sum
    # of the tensors' distances: the mean distance plus 0.01 TV, times the number of tensors, which Adam does not see.
    "paper": Recipe(4800, 1, 1e-3, 0.01, 0.0, "none", "none", "normal", False, "mean cosine", "plain"),
    # Geiping et al. 2020, "Inverting gradients": signed gradients, step decay, box, restarts.
    "original": Recipe(4800, 2, 0.1, 0.02, 0.0, "steps", "hard", "normal", True, "cosine", "plain"),
    # `modern` of the breaching framework, cut at 2000 steps: it has converged by then.
    "modern": Recipe(2000, 1, 0.1, 0.1, 0.1, "cosine", "soft", "tiled", True, "cosine", "opponent"),
}
