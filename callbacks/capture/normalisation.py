"""Mean and standard deviation that the data were normalised with, looked for where people write them down."""

import math
from collections.abc import Mapping
from typing import Any

import torch

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

_TRANSFORMS = ("transform", "train_transform", "transforms", "train_transforms")
_BY_CHANCE = ("RandomApply", "RandomChoice", "RandomOrder", "RandomTransforms")
_GIVE = "give the normalisation's `mean` and `std`"


def find_normalisation(datamodule: Any, loader: Any) -> tuple[Normalisation | None, str, list[str]]:
    """Mean and standard deviation per channel, where they were found, and what is doubtful about them.

    Looks for `mean` and `std` on the datamodule, then for the `Normalize`s (torchvision's, either version, Kornia's)
    among the transforms of the data loader's data set and the data sets that it wraps, then among the datamodule's.
    Several in a row compose: `(x − m₁)/s₁` then `(· − m₂)/s₂` has mean `m₁ + s₁ m₂` and deviation `s₁ s₂`.
    """
    doubts: list[str] = []
    mean, std = _property(datamodule, "mean", doubts), _property(datamodule, "std", doubts)
    pair = _pair(mean, std, "the datamodule", doubts)
    if pair is not None:
        return pair, "the datamodule's mean and std", doubts
    for owner in (getattr(loader, "dataset", None), datamodule):
        found: Normalisation | None = None
        for transform, by_chance in _normalisers(owner):
            where = f"{type(transform).__name__} of {type(owner).__name__}"
            pair = _pair(*_numbers(transform), where, doubts)
            if pair is not None:
                found = pair if found is None else _composed(found, pair)
                if by_chance:
                    doubts.append(f"{where} stands below a random choice and may not be applied; {_GIVE} if it matters")
        if found is not None:
            return found, f"Normalize of {type(owner).__name__}", doubts
    return None, "none found: inputs are images", doubts


def _composed(first: Normalisation, then: Normalisation) -> Normalisation:
    (m1, s1), (m2, s2) = first, then
    channels = max(map(len, (m1, s1, m2, s2)))
    m1, s1, m2, s2 = ((v * channels if len(v) == 1 else v) for v in (m1, s1, m2, s2))
    mean = tuple(a + b * c for a, b, c in zip(m1, s1, m2, strict=True))
    return mean, tuple(a * b for a, b in zip(s1, s2, strict=True))


def _normalisers(owner: Any, depth: int = 8, by_chance: bool = False) -> list[tuple[Any, bool]]:
    """The `Normalize`s that one image passes, in order, and whether chance decides on them.

    A data set's own transform comes after that of the data set that it wraps; of several transforms that one owner
    has (for training, for validation), and of several data sets side by side, the first counts.
    """
    if owner is None or depth == 0:
        return []
    if type(owner).__name__ == "Normalize":
        return [(owner, by_chance)]
    by_chance = by_chance or type(owner).__name__ in _BY_CHANCE
    if isinstance(owner, list | tuple | torch.nn.ModuleList | torch.nn.Sequential):
        return [found for part in owner for found in _normalisers(part, depth - 1, by_chance)]
    held = vars(owner) | getattr(owner, "_modules", {}) if hasattr(owner, "__dict__") else {}
    datasets = held.get("datasets")
    inner = held.get("dataset") if not isinstance(datasets, list | tuple) else next(iter(datasets), None)
    own = (_normalisers(held.get(name), depth - 1, by_chance) for name in _TRANSFORMS)
    return _normalisers(inner, depth - 1, by_chance) + next((found for found in own if found), [])


def _numbers(transform: Any) -> tuple[Any, Any]:
    """Mean and deviation of a `Normalize`: attributes, or kept as Kornia does."""
    for holder in (vars(transform), *(vars(transform).get(x) or {} for x in ("flags", "_buffers", "_parameters"))):
        if isinstance(holder, Mapping) and holder.get("mean") is not None and holder.get("std") is not None:
            return holder["mean"], holder["std"]
    return getattr(transform, "mean", None), getattr(transform, "std", None)


def _property(datamodule: Any, name: str, doubts: list[str]) -> Any:
    try:
        return getattr(datamodule, name, None)
    except Exception as error:  # a property may raise anything
        doubts.append(f"the datamodule's {name} raises {type(error).__name__}: {error}; {_GIVE} if it matters")
        return None


def _pair(mean: Any, std: Any, where: str, doubts: list[str]) -> Normalisation | None:
    if mean is None or std is None:
        return None
    found = _floats(mean, where, doubts), _floats(std, where, doubts)
    if found[0] is None or found[1] is None or not all(math.isfinite(x) for x in found[0]) or not min(found[1]) > 0:
        doubts.append(f"mean and std of {where} are not understood; {_GIVE}")
        return None
    return found[0], found[1]


def _floats(values: Any, where: str, doubts: list[str]) -> tuple[float, ...] | None:
    """Numbers out of a tensor, an array, a sequence, a method without arguments, or a dict by stage; else None."""
    try:
        if callable(values) and not isinstance(values, torch.Tensor):
            values = values()
        if isinstance(values, Mapping):
            values = values["train"]
            doubts.append(f"mean or std of {where} is a dict, of which `train` was taken; {_GIVE} if it matters")
        numbers = torch.as_tensor(values, dtype=torch.float64).flatten()
    except Exception:  # somebody else's attribute may be anything
        return None
    return tuple(numbers.tolist()) if 1 <= len(numbers) <= 64 else None
