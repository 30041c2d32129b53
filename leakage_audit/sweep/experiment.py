"""What is swept, checked before any work is done."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from leakage_audit import attacks
from leakage_audit.sweep.mechanisms import DP_SGD, NONE, mechanisms_of
from leakage_audit.sweep.recipe import Recipe

DEFAULT: dict[str, list[float]] = {
    "gaussian": [0.001, 0.01, 0.03, 0.1],
    "laplace": [0.001, 0.01, 0.03, 0.1],
    "prune": [0.5, 0.1, 0.03, 0.01],
    "percentile": [10, 50, 90, 99],
    "svt": [0.9, 0.5, 0.1, 0.01],
    "quantize": [8, 4, 2, 1],
    "sign": [1],
    "partial": [2, 1],
    "dp_sgd": [50, 8, 3, 1],
}

Point = tuple[str, float]


@dataclass(frozen=True)
class Sweep:
    """Mechanisms × strengths on one training recipe.

    Attributes:
        recipe: The training.
        mechanisms: Strengths by mechanism.
        indices: Of the training images that are attacked.
        attacks: As `leakage_audit.attacks.build` takes them.
        seconds: Time limit of each attack on each image, by both attackers together, and of each limit; None sets
            none.
        draws: Of noise, whose results are averaged: one may come out well by chance. What has no noise has one.

    Raises:
        ValueError: If anything of it cannot be run.
        OpacusMissing: If DP-SGD is among the mechanisms and Opacus is not installed.
    """

    recipe: Recipe
    mechanisms: Mapping[str, Sequence[float]] = field(default_factory=lambda: DEFAULT)
    indices: Sequence[int] = (1, 3)
    attacks: Sequence[str] = ("joint",)
    seconds: float | None = None
    draws: int = 1

    def __post_init__(self) -> None:
        if not self.mechanisms or not self.indices or not self.attacks:
            raise ValueError("mechanisms, indices and attacks must each name at least one")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        for name, strengths in self.mechanisms.items():
            if not strengths:
                raise ValueError(f"mechanism {name!r} has no strength")
        names = [name for name, p in self.recipe.build().named_parameters() if p.requires_grad]
        for name, strength in self.points:
            mechanisms_of(name, strength, names)
            if name == DP_SGD:
                from leakage_audit.defences.dp_sgd import refuse_unsupported

                if not strength > 0:
                    raise ValueError(f"dp_sgd at strength {strength:g} (ε of the whole training): it must be positive")
                refuse_unsupported(self.recipe.build().train())
        for name in self.attacks:
            attacks.build(name)
        for index in self.indices:
            self.recipe.data.image_at(index)

    @property
    def points(self) -> list[Point]:
        """No defence, then every mechanism at every strength."""
        return [(NONE, 0.0), *((name, float(s)) for name, strengths in self.mechanisms.items() for s in strengths)]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that a point depends on, but for the point itself."""
        recipe = self.recipe
        images = [recipe.data.image_at(i) for i in self.indices]
        return {
            "network": recipe.network,
            "steps": recipe.steps,
            "batch_size": recipe.batch_size,
            "lr": recipe.lr,
            "seed": recipe.seed,
            "mean": recipe.mean,
            "std": recipe.std,
            "image_size": recipe.data.image_size,
            "classes": list(recipe.data.classes),
            "indices": list(self.indices),
            "images": [hashlib.sha256(one.image.numpy().tobytes()).hexdigest() for one in images],
            "attacks": list(self.attacks),
            "seconds": self.seconds,
            "draws": self.draws,
        }
