"""The networks under comparison: a variant by name or any importable classifier, with trained weights if given."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leakage_audit.models import VARIANTS, build


@dataclass(frozen=True)
class Subject:
    """A recipe for a network; building it twice gives the same weights.

    Attributes:
        name: A name of `VARIANTS`, or the dotted path of something callable without arguments that makes a network.
        num_classes: Class scores of a variant, where no checkpoint says otherwise.
        image_size: Height and width of a variant's images.
        seed: Set right before the network is built.
        checkpoint: Trained weights: a Lightning checkpoint or a saved state dict.
    """

    name: str
    num_classes: int
    image_size: int
    seed: int
    checkpoint: Path | None = None

    def build(self) -> nn.Module:
        """The network in eval mode; torch's global stream is left as it was.

        Raises:
            ValueError: If there is no such network, or the checkpoint belongs to another one.
            FileNotFoundError: If there is no checkpoint at that path.
        """
        weights = None if self.checkpoint is None else read_weights(self.checkpoint)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._make(weights)
        if weights is not None:
            _load(network, weights, f"{self.checkpoint} does not fit {self.name}")
        return network.eval()

    def _make(self, weights: dict[str, Tensor] | None) -> nn.Module:
        if self.name in VARIANTS:
            found = [w for k, w in (weights or {}).items() if k.split(".")[-2:] == ["fc", "weight"]]
            return build(self.name, len(found[-1]) if found else self.num_classes, self.image_size)
        if "." not in self.name:
            raise ValueError(f"{self.name!r} is neither one of {', '.join(VARIANTS)} nor an importable network")
        try:
            network = import_dotted(self.name)()
        except TypeError as error:
            raise ValueError(f"{self.name} is not made without arguments: {error}") from error
        if not isinstance(network, nn.Module):
            raise ValueError(f"{self.name} makes no torch.nn.Module, but an object of {type(network).__name__}")
        return network


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint; nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: If the file holds no state dict.
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails in unpickling in a dozen ways
        raise ValueError(f"{path} is no checkpoint of tensors and plain values: {error}") from error
    stored = stored.get("state_dict", stored) if isinstance(stored, dict) else {}
    weights = {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"{path} holds no state dict")
    return weights


def _load(network: nn.Module, weights: dict[str, Tensor], problem: str) -> None:
    """Load weights that may lie below a prefix, such as the `network.` of a LightningModule."""
    own = network.state_dict()
    first = next(iter(own))
    prefix = next((name.removesuffix(first) for name in weights if name.endswith(first)), "")
    below = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    differing = [
        f"{name} is {tuple(below[name].shape) if name in below else 'missing'}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name not in below or below[name].shape != value.shape
    ] + [f"{name} is not part of the network" for name in below if name not in own]
    if differing:
        raise ValueError(f"{problem}: {'; '.join(differing[:3])}{' …' if len(differing) > 3 else ''}")
    network.load_state_dict(below)


def import_dotted(dotted: str) -> Any:
    """Something callable, by its dotted name.

    Raises:
        ValueError: If there is no such thing, or it cannot be called.
    """
    module, _, attribute = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute) if module else None
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{dotted!r} cannot be imported: {error}; modules are looked for among those installed, in the folder "
            "where the command is run, and in PYTHONPATH"
        ) from error
    if not callable(found):
        raise ValueError(f"{dotted!r} names nothing that can be called, such as my.module.function")
    return found
