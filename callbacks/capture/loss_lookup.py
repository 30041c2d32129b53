"""Which loss a LightningModule trains with: given, heard, one of its attributes, or the usual one for the targets."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.callbacks.capture.listening import LossCall
from leakage_audit.callbacks.capture.model_copy import attribute, resolve
from leakage_audit.callbacks.capture.own_copy import own
from leakage_audit.observation import Loss

NAMES = ("loss_fn", "criterion", "loss_function", "loss_func", "loss")
_WORDS = ("loss", "crit", "objective")
_KINDS = ("loss", "entropy", "criterion")  # in the names of classes


@dataclass(frozen=True)
class LossSource:
    """Where a loss comes from; bound to a copy of the module, so that the training's own object is never called.

    Attributes:
        words: For the record.
        loss: The function itself, or its dotted name on the module or anywhere.
    """

    words: str
    loss: str | Loss

    def bind(self, model_copy: nn.Module) -> Loss:
        """The loss of a copy made by `copy_module`.

        Raises:
            ValueError: If a dotted name leads nowhere.
        """
        found: Loss = named(model_copy, self.loss) if isinstance(self.loss, str) else own(self.loss, model_copy)
        return found


@dataclass(frozen=True, eq=False)
class ShapedLoss:
    """A loss with the shapes and type that it wants its arguments in.

    Attributes:
        function: Of scores and targets.
        keywords: Its other arguments (label_smoothing, weight, reduction, …).
        scores_tail: Shape of one image's scores; None as they are.
        target_tail: Shape of one image's target; None that of the scores.
        floating: Whether targets are floating point: classes become one-hot rows, or numbers 0 and 1.
    """

    function: Callable[..., Tensor]
    keywords: dict[str, Any] = field(default_factory=dict)
    scores_tail: tuple[int, ...] | None = None
    target_tail: tuple[int, ...] | None = None
    floating: bool = False

    def __call__(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss of scores `(B, classes)` and targets of any form that fits."""
        if self.scores_tail is not None:
            scores = scores.reshape(len(scores), *self.scores_tail)
        return self.function(scores, self.shaped(target, scores), **self.keywords)

    def shaped(self, target: Tensor, scores: Tensor) -> Tensor:
        """The target as the function wants it."""
        tail = tuple(scores.shape[1:]) if self.target_tail is None else self.target_tail
        if self.floating:
            classes = not target.is_floating_point() and target.ndim == 1
            if classes and len(tail) == 1 and tail[0] > 1:
                target = F.one_hot(target, tail[0])
            target = target.to(scores.dtype)
        return target.reshape(len(target), *tail)


def heard_loss(call: LossCall) -> LossSource:
    """The loss that a training step was heard to call, with its keywords."""
    keywords = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in call.keywords.items()}
    loss = ShapedLoss(
        call.function,
        keywords,
        tuple(call.scores.shape[1:]),
        tuple(call.target.shape[1:]),
        call.target.is_floating_point(),
    )
    said = [
        f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" if isinstance(v, str) else k
        for k, v in keywords.items()
        if v is not None and v is not False and (k, v if isinstance(v, str | int | float) else "") not in _USUAL
    ]
    return LossSource(f"loss {call.name.replace('_', ' ')}" + (f" ({', '.join(said)})" if said else ""), loss)


_USUAL = {("reduction", "mean"), ("label_smoothing", 0.0), ("ignore_index", -100)}


def find_losses(module: nn.Module, given: str | Loss | None) -> list[LossSource]:
    """The losses that it may be, the likeliest first.

    Args:
        module: A copy of the LightningModule: its attributes are read, properties evaluated. Those of a usual name,
            and every part that is a loss, are candidates, if they take scores and labels.
        given: By the user; then there is no other.

    Raises:
        ValueError: If a dotted name leads nowhere.
    """
    if given is not None:
        words = given if isinstance(given, str) else getattr(given, "__qualname__", type(given).__name__)
        named(module, given)
        return [LossSource(f"loss {words}", given)]
    parts = [name for name, part in module.named_modules() if name and _is_loss(part)]
    others = [name for name in vars(module) if any(word in name.lower() for word in _WORDS) and name not in NAMES]
    names = dict.fromkeys((*NAMES, *parts, *others))
    return [LossSource(f"loss {name}", name) for name in names if _takes_two(module, name)]


USUAL_LOSSES = (
    LossSource("loss cross entropy", F.cross_entropy),
    LossSource("loss binary cross entropy with logits", ShapedLoss(F.binary_cross_entropy_with_logits, floating=True)),
)


def _is_loss(part: nn.Module) -> bool:
    name = type(part).__name__.lower()
    return type(part).__module__ == "torch.nn.modules.loss" or any(word in name for word in _KINDS)


def named(module: nn.Module, what: Any) -> Any:
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


def _takes_two(module: nn.Module, name: str) -> bool:
    try:
        found = attribute(module, name)
        if not callable(found):
            return False
        inspect.signature(found).bind(None, None)
    except Exception:  # a property may raise anything; then there is no candidate
        return False
    return True
