"""Images and targets in whatever a data loader yields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IMAGE_NAMES = ("image", "images", "img", "x", "input", "inputs", "pixel_values")
LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class")


@dataclass(frozen=True)
class Target:
    """One way to read a target for each image off a batch's tensors.

    Attributes:
        place: Which tensor, counted in the order of `find_targets`' candidates.
        kind: `class` (one integer an image), `argmax` (the class of a one-hot row), or `value` (as it stands).
    """

    place: int
    kind: str

    def read(self, tensors: list[Tensor]) -> Tensor:
        """The targets of another batch: classes `(B,)`, or whatever the tensor holds.

        Raises:
            ValueError: If the batch is of another form.
        """
        if self.place >= len(tensors):
            raise ValueError("the batch has fewer tensors than the first one; give `unpack`")
        found = tensors[self.place]
        if self.kind == "argmax":
            return found.argmax(1)
        return found.reshape(len(found)).long() if self.kind == "class" else found


def unpack(batch: Any) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """Find the images in a batch (tuples, dicts, dataclasses, any nesting of them), and what else there is of an image.

    Images are the floating tensor `(B, C, H, W)`; where several fit, one with a usual name (`image`, `x`, …) is taken,
    otherwise the first.

    Returns:
        The images, and the other tensors of length B with their names, those with a label's name first.

    Raises:
        ValueError: If there are no images; the message lists what the batch holds.
    """
    found = list(_tensors(batch, ""))
    images = _pick([(n, t) for n, t in found if t.ndim == 4 and t.is_floating_point()], IMAGE_NAMES)
    if images is None:
        raise ValueError(f"no floating-point images (B, C, H, W) in the batch, only {_list(found)}; give `unpack`")
    others = [(n, t) for n, t in found if t is not images and t.ndim > 0 and len(t) == len(images)]
    return images, sorted(others, key=lambda pair: pair[0].lower() not in LABEL_NAMES)


def find_targets(tensors: list[Tensor]) -> list[Target]:
    """What can be a classification's target, the likeliest first.

    Classes are integers `(B,)` or `(B, 1)`; rows of 0 and 1 that add up to 1 are one-hot; other rows between 0 and 1
    are soft or several labels; single numbers that are 0 or 1 belong to a binary classification.
    """
    integers, rows = [], []
    for place, tensor in enumerate(tensors):
        if tensor.is_complex() or tensor.ndim > 2:
            continue
        whole = not tensor.is_floating_point()
        single = tensor.ndim == 1 or tensor.shape[1] == 1
        values = tensor.double()
        in_range = bool(((values >= 0) & (values <= 1)).all())
        binary = in_range and bool(((values == 0) | (values == 1)).all())
        if single and whole and tensor.dtype != torch.bool:
            integers.append(Target(place, "class"))
        elif single and binary:
            rows.append(Target(place, "value"))
        elif not single and in_range:
            if binary and bool((values.sum(1) == 1).all()):
                rows.append(Target(place, "argmax"))
            rows.append(Target(place, "value"))
    return integers + rows


def no_targets(images: Tensor, others: list[tuple[str, Tensor]]) -> str:
    """Why a batch has no targets of a classification, in a sentence that says what it has."""
    return (
        f"no integer labels (B,) beside the images in the batch, only {_list([('', images), *others])}; give `unpack`"
    )


def tensors(batch: Any) -> list[Tensor]:
    """Every tensor of a batch, in a fixed order."""
    return [tensor for _, tensor in _tensors(batch, "")]


def _tensors(batch: Any, name: str, depth: int = 6) -> Iterator[tuple[str, Tensor]]:
    """In mappings, sequences and objects with fields, such as dataclasses."""
    if depth == 0:
        return
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _tensors(value, str(key), depth - 1)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for value in batch:
            yield from _tensors(value, name, depth - 1)
    elif hasattr(batch, "__dict__") and not isinstance(batch, type):
        for key, value in vars(batch).items():
            yield from _tensors(value, key, depth - 1)


def _pick(candidates: list[tuple[str, Tensor]], names: tuple[str, ...]) -> Tensor | None:
    named = [tensor for name, tensor in candidates if name.lower() in names]
    return next(iter(named or (tensor for _, tensor in candidates)), None)


def _list(found: list[tuple[str, Tensor]]) -> str:
    shown = (f"{name or 'tensor'} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in found)
    return ", ".join(shown) or "no tensor at all"
