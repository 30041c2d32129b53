"""What is compared, checked before any work is done."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from leakage_audit import attacks
from leakage_audit.attacks.base import Attack
from leakage_audit.compare.subjects import Subject
from leakage_audit.data.images import Images
from leakage_audit.observation import Observation, as_tuple, observe

EVERY_CLASS = "one-per-class"
PRETRAINED = "_pretrained"
LIMIT = "limit"  # the column, beside the attacks, of what the gradient determines
TYPES = {32: torch.float32, 64: torch.float64}


@dataclass(frozen=True)
class Experiment:
    """Networks × images × attacks.

    Attributes:
        data: Where the images come from.
        networks: Names of variants, or dotted paths of importable networks.
        attacks: Names as `leakage_audit.attacks.build` takes them: `rgap`, `cosine_tv:modern`.
        indices: Of the training images to attack, or `one-per-class`.
        seed: Set right before each network is built; also the attacks' seed.
        checkpoint: Trained weights for the networks.
        pretrained: Further rows: trained weights by network, shown as the network's name with `_pretrained`.
        mean: The network's input is `(image - mean) / std`.
        std: See `mean`.
        precision: 32 or 64, bits of the weights and gradients.
        scale: Multiplies every attack's number of iterations.
        seconds: Time limit for each attack on each image, and for its limit; None sets none.
        limit: Whether to compute what any attack can get of each image, to first order.
        guessed_from: Images whose mean is the guess without any attack; more change its score in the third digit.

    Raises:
        ValueError: If anything of it cannot be run, a missing image or a foreign checkpoint included.
        FileNotFoundError: If the images or the checkpoint are not there.
    """

    data: Images
    networks: Sequence[str]
    attacks: Sequence[str]
    indices: Sequence[int] | str = (1, 3)
    seed: int = 10
    checkpoint: Path | None = None
    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 1.0
    precision: int = 32
    scale: float = 1.0
    seconds: float | None = None
    limit: bool = True
    pretrained: Mapping[str, str | Path] = field(default_factory=dict)
    guessed_from: int = 200

    def __post_init__(self) -> None:
        if isinstance(self.indices, str):
            if self.indices != EVERY_CLASS:
                raise ValueError(f"indices must be numbers or {EVERY_CLASS!r}, got {self.indices!r}")
            object.__setattr__(self, "indices", tuple(self.data.one_per_class()))
        for name, given in (("networks", self.rows), ("attacks", self.attacks), ("indices", self.indices)):
            values = list(given)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must name at least one, each once, got {values}")
        if self.precision not in TYPES:
            raise ValueError(f"precision must be 32 or 64, got {self.precision}")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive: it multiplies the attacks' iterations, got {self.scale}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be positive or None, got {self.seconds}")
        if any(not value > 0 for value in as_tuple(self._plain("std"))):
            raise ValueError(f"std must be positive, got {self.std}")
        if not all(map(math.isfinite, as_tuple(self._plain("mean")))):
            raise ValueError(f"mean must be finite, got {self.mean}")
        for name in self.attacks:
            self.attack(name)
        for index in self.indices:
            self.data.image_at(int(index))
        for network in self.rows:
            self.observe(network, int(self.indices[0]))

    def _plain(self, name: str) -> float | tuple[float, ...]:
        value = getattr(self, name)
        return tuple(value) if isinstance(value, Sequence) else value

    @property
    def rows(self) -> list[str]:
        """The networks' names, as shown, in the table's order."""
        return [*self.networks, *(f"{name}{PRETRAINED}" for name in self.pretrained)]

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Every network with every image, in the table's order."""
        return [(network, int(index)) for network in self.rows for index in self.indices]

    @property
    def cells(self) -> list[tuple[str, int, str]]:
        """Every network, image and attack, in the table's order."""
        return [(*pair, attack) for pair in self.pairs for attack in self.attacks]

    def attack(self, name: str) -> Attack:
        """An attack with its iterations scaled and the experiment's seed.

        Raises:
            ValueError: If there is no such attack, or no iteration is left of it.
        """
        built = attacks.build(name)
        settings = built.arguments
        if "seed" in settings:
            settings["seed"] = self.seed
        if "scale" in settings:  # the attack's own iterations are a table, and it scales them itself
            settings["scale"] *= self.scale
        elif "iterations" in settings:
            settings["iterations"] = round(settings["iterations"] * self.scale)
            if settings["iterations"] < 1:
                raise ValueError(f"scale {self.scale} leaves no iteration of {name}'s {built.settings['iterations']}")
        return type(built)(**settings)

    def network(self, name: str) -> nn.Module:
        """A network in eval mode, its weights the same every time, in the experiment's precision."""
        base = name.removesuffix(PRETRAINED)
        checkpoint = self.pretrained[base] if base != name else self.checkpoint
        subject = Subject(
            base, self.data.num_classes, self.data.image_size, self.seed, Path(checkpoint) if checkpoint else None
        )
        return subject.build().to(TYPES[self.precision])

    def observe(self, network: str, index: int, device: torch.device | str = "cpu") -> tuple[Observation, Tensor, int]:
        """The one look at a pair: what leaks, and, for the scores, the true image `(3, H, W)` and its label.

        An image of a class that the network has no score for is trained on as its label modulo the network's classes.

        Raises:
            ValueError: If the network does not map images to class scores.
        """
        model, (image, label, _) = self.network(network).to(device), self.data.image_at(index)
        given = image.to(device, TYPES[self.precision])
        mean, std = as_tuple(self._plain("mean")), as_tuple(self._plain("std"))
        with torch.no_grad():
            blank = torch.zeros(1, *image.shape, device=device, dtype=given.dtype)
            scores = model(blank)
        if scores.ndim != 2:
            raise ValueError(f"{network} must map images to class scores (B, classes), got {tuple(scores.shape)}")
        label %= scores.shape[1]
        return observe(model, given, label, mean=mean, std=std), image, label

    @cached_property
    def identity(self) -> dict:
        """Everything that the results depend on, as plain values; images, weights and priors by their digest."""
        digests = [hashlib.sha256(self.data.image_at(int(i)).image.numpy().tobytes()).hexdigest() for i in self.indices]
        return {
            "networks": self.rows,
            "attacks": {name: self.attack(name).settings for name in self.attacks},
            "files": {name: _digest(file) for name in self.attacks if Path(file := name.partition(":")[2]).is_file()},
            "indices": [int(index) for index in self.indices],
            "images": digests,
            "classes": list(self.data.classes),
            "seed": self.seed,
            "checkpoint": self.checkpoint and _digest(self.checkpoint),
            "pretrained": {name: _digest(path) for name, path in self.pretrained.items()},
            "mean": list(as_tuple(self._plain("mean"))),
            "std": list(as_tuple(self._plain("std"))),
            "precision": self.precision,
            "scale": self.scale,
            "seconds": self.seconds,
            "limit": self.limit,
            "guessed_from": self.guessed_from,
        }


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
