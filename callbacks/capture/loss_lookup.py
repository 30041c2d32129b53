"""Which loss a LightningModule trains with: given, one of its attributes, or cross entropy."""

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from lightning import LightningModule

from leakage_audit.callbacks.capture.model_copy import attribute, resolve
from leakage_audit.observation import Loss

NAMES = ("loss_fn", "criterion", "loss_function", "loss_func", "loss")


def find_losses(module: LightningModule, given: str | Loss | None) -> list[tuple[Loss, str]]:
    """The losses that it may be, the likeliest first, each with a word for it.

    Args:
        module: Whose attributes of a usual name are candidates, if they take scores and labels.
        given: By the user; then there is no other.

    Raises:
        ValueError: If a dotted name leads nowhere.
    """
    if given is not None:
        words = given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__name__)
        return [(named(module, given), f"loss {words}")]
    attributes = [(getattr(module, name, None), f"loss {name}") for name in NAMES]
    found = [(loss, words) for loss, words in attributes if callable(loss) and _takes_two(loss)]
    return [*found, (F.cross_entropy, "loss cross entropy")]


def named(module: LightningModule, what: Any) -> Any:
    """A callable given as itself, or by a dotted name: the module's own, or importable.

    Raises:
        ValueError: If a dotted name leads nowhere.
    """
    if not isinstance(what, str):
        return what
    try:
        return attribute(module, what)
    except AttributeError:
        return resolve(what)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True
