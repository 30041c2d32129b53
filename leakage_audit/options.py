"""Settings as data: checked when they are made, written down as plain values."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Checked:
    """What a frozen dataclass of options checks its fields by."""

    def check(
        self, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = (), share: tuple[str, ...] = ()
    ) -> None:
        """Check fields by name.

        Args:
            positive: Those that must be above zero, each entry of a tuple by itself.
            not_negative: Those that may be zero.
            share: Those that lie in (0, 1].

        Raises:
            ValueError: If one is out of its range.
        """
        for kinds, holds, words in (
            (positive, lambda x: x > 0, "positive"),
            (not_negative, lambda x: x >= 0, "not negative"),
            (share, lambda x: 0 < x <= 1, "above 0 and at most 1"),
        ):
            for name in kinds:
                value = getattr(self, name)
                values = value if isinstance(value, tuple | list) else (value,)
                if not values or not all(holds(x) for x in values):
                    raise ValueError(f"{type(self).__name__}.{name} must be {words}, got {value}")


def recorded(value: Any) -> Any:
    """A setting as JSON can hold it: options by field, objects by class and constructor's arguments, weights by digest.

    An object's arguments are those that it keeps as attributes of the same name.

    >>> from leakage_audit.priors import Tikhonov
    >>> recorded(Tikhonov(spread=0.1))
    {'class': 'leakage_audit.priors.tikhonov.Tikhonov', 'spread': 0.1}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): recorded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [recorded(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: recorded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "sha256": _digest(value)}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, nn.Module):
        return {"class": kind, "sha256": _digest(*value.state_dict().values())}
    names = [name for name in inspect.signature(type(value)).parameters if hasattr(value, name)]
    return {"class": kind} | {name: recorded(getattr(value, name)) for name in names}


def _digest(*tensors: Tensor) -> str:
    """Of the tensors' bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
