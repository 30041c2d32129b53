"""Images and labels in whatever a data loader yields, and how the images were normalised."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IMAGE_NAMES = ("image", "images", "img", "x", "input", "inputs", "pixel_values")
LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class")


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Find images and labels in a batch: tuples, lists, dicts and any nesting of them.

    Images are the floating tensor `(B, C, H, W)`, labels the integer tensor `(B,)`; where several fit, one with a
    usual name (`image`, `x`, `label`, `y`, …) is taken, otherwise the first.

    Raises:
        ValueError: If there is no such pair; the message lists what the batch holds.
    """
    found = list(_tensors(batch, ""))
    images = _pick([(n, t) for n, t in found if t.ndim == 4 and t.is_floating_point()], IMAGE_NAMES)
    if images is None:
        raise ValueError(f"no floating-point images (B, C, H, W) in the batch, only {_list(found)}; give `unpack`")
    whole = [(n, t) for n, t in found if t.ndim == 1 and len(t) == len(images) and _is_integer(t)]
    labels = _pick(whole, LABEL_NAMES)
    if labels is None:
        raise ValueError(f"no integer labels (B,) beside the images in the batch, only {_list(found)}; give `unpack`")
    return images, labels


def _tensors(batch: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _tensors(value, str(key))
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for value in batch:
            yield from _tensors(value, name)


def _pick(candidates: list[tuple[str, Tensor]], names: tuple[str, ...]) -> Tensor | None:
    named = [tensor for name, tensor in candidates if name.lower() in names]
    return next(iter(named or (tensor for _, tensor in candidates)), None)


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _list(found: list[tuple[str, Tensor]]) -> str:
    shown = (f"{name or 'tensor'} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in found)
    return ", ".join(shown) or "no tensor at all"


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def find_normalisation(datamodule: Any, loader: Any) -> tuple[Normalisation, str] | None:
    """Mean and standard deviation per channel that the data were normalised with, and where that was found.

    Looks for `mean` and `std` on the datamodule, then for a `Normalize` (torchvision, either version) among the
    transforms of the data loader's data set and the data sets that it wraps, then among the datamodule's.
    """
    mean, std = getattr(datamodule, "mean", None), getattr(datamodule, "std", None)
    if mean is not None and std is not None:
        return (_floats(mean), _floats(std)), "the datamodule's mean and std"
    for owner in (getattr(loader, "dataset", None), datamodule):
        for transform in _transforms(owner, depth=6):
            if type(transform).__name__ == "Normalize":
                return (_floats(transform.mean), _floats(transform.std)), f"Normalize of {type(owner).__name__}"
    return None


def _transforms(owner: Any, depth: int) -> Iterator[Any]:
    """Every transform that hangs on a data set, a datamodule or another transform."""
    if owner is None or depth == 0:
        return
    if isinstance(owner, list | tuple | torch.nn.ModuleList | torch.nn.Sequential):
        for part in owner:
            yield part
            yield from _transforms(part, depth - 1)
        return
    for name in ("transform", "transforms", "train_transform", "train_transforms", "dataset", "datasets"):
        part = vars(owner).get(name) if hasattr(owner, "__dict__") else None
        if part is not None:
            yield part
            yield from _transforms(part, depth - 1)


def _floats(values: Any) -> tuple[float, ...]:
    numbers = values.flatten().tolist() if isinstance(values, Tensor) else values
    return tuple(map(float, numbers)) if isinstance(numbers, Sequence) else (float(numbers),)
