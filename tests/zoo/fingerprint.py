"""Anything as nested lists, dicts and digests that compare bit for bit."""

import hashlib
import random
from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

OWN = ("zoo", "torch", "torchmetrics", "torchvision", "lightning.pytorch.core", "numpy")
SKIPPED = ("_trainer", "_fabric", "trainer", "_metric_attributes", "_is_full_backward_hook", "_iterator")


def portrait(value, met=()):
    """All that a value holds, below modules, losses, metrics and data sets too.

    Args:
        value: Anything; of foreign objects only the type is taken.
        met: The objects on the way here, so that circles end.
    """
    if isinstance(value, torch.Tensor):
        return _digest(value)
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, value.tobytes().hex()]
    if isinstance(value, torch.Generator):
        return _digest(value.get_state())
    if value is None or isinstance(value, str | int | float | bool):
        return repr(value)
    if id(value) in met:
        return "…"
    met = (*met, id(value))
    if isinstance(value, Mapping):
        return {str(k): portrait(v, met) for k, v in value.items()}
    if isinstance(value, list | tuple | deque):
        return [portrait(v, met) for v in value]
    if isinstance(value, nn.Module) or (type(value).__module__.startswith(OWN) and hasattr(value, "__dict__")):
        own = {k: portrait(_named(k, v), met) for k, v in vars(value).items() if k not in SKIPPED}
        return {"type": type(value).__name__} | own
    return type(value).__name__


def _named(name, value):
    """Hooks without their keys, which are numbers that go on through the whole process."""
    return list(value.values()) if "hooks" in name and isinstance(value, Mapping) else value


def _digest(tensor):
    dense = tensor.detach().to_dense().cpu().contiguous()
    raw = dense.reshape(-1).view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, hashlib.sha1(raw).hexdigest()[:16]]


def draw():
    """Numbers from each global stream of random numbers."""
    return {
        "torch": torch.rand(4).tolist(),
        "numpy": np.random.rand(4).tolist(),  # noqa: NPY002
        "python": [random.random() for _ in range(4)],
    }


def differences(one, other, path=""):
    """The paths at which two portraits differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{path}/{k} only once" for k in one.keys() ^ other.keys()]
        return found + [x for k in one if k in other for x in differences(one[k], other[k], f"{path}/{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        inner = [x for i, (a, b) in pairs for x in differences(a, b, f"{path}/{i}")]
        return inner if any(isinstance(x, list | dict) for x in one) else [path] * bool(inner)
    return [] if one == other else [path]
