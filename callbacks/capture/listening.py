"""What a training step does, heard while a copy of it runs: which loss it calls, on what scores, with what targets.

Guessing loss, scores and targets from names goes wrong in a hundred ways; the step itself says all three, if one
listens to the calls of `torch.nn.functional`'s losses and to the outputs of the module's parts. What is heard is a
candidate like any other, and only the gradient decides whether it is right.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leakage_audit.callbacks.capture.model_copy import Classifier, Path, tensors_in

_LOSSES = {
    getattr(F, name): name for name in dir(F) if name.endswith("_loss") or "cross_entropy" in name or name == "kl_div"
}
# Losses whose target is no class: of numbers and of images.
_OF_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss", "poisson_nll_loss")


@dataclass
class LossCall:
    """A call of a loss.

    Attributes:
        name: Of the function.
        function: The function.
        scores: Its first argument.
        target: Its second argument.
        keywords: Its other arguments.
        value: What it returned.
    """

    name: str
    function: Callable[..., Tensor]
    scores: Tensor
    target: Any
    keywords: dict[str, Any]
    value: Tensor


@dataclass
class PartCall:
    """A call of a part of the module: its path, arguments and output."""

    path: str
    part: nn.Module
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any


@dataclass
class Heard:
    """A training step as it was heard.

    Attributes:
        losses: The calls of losses that take part in the gradient.
        parts: The calls of parts, the outermost first.
        problem: Why the step did not run on the copy, if it did not.
    """

    losses: list[LossCall] = field(default_factory=list)
    parts: list[PartCall] = field(default_factory=list)
    problem: str = ""

    def reason(self) -> str:
        """What the step seems to be, where it is no classification of single images that could be audited; or empty."""
        if self.problem:
            return f"training_step did not run on a copy of the module ({self.problem})"
        names = ", ".join(loss.name for loss in self.losses)
        if not self.losses:
            return "no loss of torch.nn.functional was heard in training_step: a loss of its own, or self-supervised?"
        if len(self.losses) > 1:
            return f"training_step adds up several losses ({names}): several tasks, another term of the loss, mixup?"
        loss = self.losses[0]
        if loss.name == "triplet_margin_loss" or not isinstance(loss.target, Tensor):
            return f"training_step compares views of images ({names}): self-supervised, not a class an image"
        if loss.name in _OF_NUMBERS and loss.scores.ndim == 4:
            return f"the network returns images {tuple(loss.scores.shape)}, no class scores: image to image ({names})"
        if loss.name in _OF_NUMBERS:
            return f"training_step's loss is {names}: a regression, not a class an image"
        return ""


def listen(model_copy: nn.Module, batch: Any, index: int) -> Heard:
    """Run a copy's `training_step` once, and note what it calls.

    Args:
        model_copy: Made by `copy_module`; used up.
        batch: A clone of the batch.
        index: Of the batch.
    """
    heard, mode = Heard(), _Listens()
    handles = [
        part.register_forward_hook(_note(path, heard.parts), with_kwargs=True)
        for path, part in model_copy.named_modules()
    ]
    try:
        with mode:
            step: Any = model_copy.training_step
            step(*_arguments(step, batch, index))
    except Exception as error:  # a user's step may raise anything on a copy
        heard.problem = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        for handle in handles:
            handle.remove()
    heard.parts.reverse()
    heard.losses = mode.calls
    return heard


def _arguments(step: Callable[..., Any], batch: Any, index: int) -> tuple[Any, ...]:
    try:
        inspect.signature(step).bind(batch, index)
    except TypeError:
        return (batch,)
    return batch, index


def _note(path: str, calls: list[PartCall]) -> Callable[..., None]:
    def hook(part: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        calls.append(PartCall(path, part, args, keywords, output))

    return hook


class _Listens(TorchFunctionMode):
    """Notes the outermost calls of losses that a gradient goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._inside = False

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if self._inside or function not in _LOSSES:
            return function(*args, **keywords)
        with self._within():
            value = function(*args, **keywords)
        if isinstance(value, Tensor) and value.requires_grad:
            bound = inspect.signature(function).bind(*args, **keywords)
            (_, scores), *rest = bound.arguments.items()
            target = rest[0][1] if rest and rest[0][0] == "target" else None
            self.calls.append(LossCall(_LOSSES[function], function, scores, target, dict(rest[1:]), value))
        return value

    @contextmanager
    def _within(self) -> Iterator[None]:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False


def heard_classifiers(heard: Heard, images: Tensor) -> Iterator[Classifier]:
    """The parts whose input is the images and whose output holds the scores that the loss took, the outermost first."""
    if len(heard.losses) != 1:
        return
    scores = heard.losses[0].scores
    for call in heard.parts:
        pick = _place(call.output, scores)
        if pick is None:
            continue
        way = _with_images_only(call, images)
        if way is None:
            continue
        where = f"the submodule {call.path}" if call.path else "forward"
        words = f"scores by {where}" + (f", its output {'.'.join(map(str, pick))}" if pick else "")
        yield Classifier(words, path=call.path, call=None if way == _ALONE else _Call(*way), pick=pick)


def _place(output: Any, scores: Tensor) -> Path | None:
    """Where in an output the scores are: the same tensor, or the same numbers in another shape."""
    found = tensors_in(output)
    for path, tensor in found:
        if tensor is scores:
            return path
    for path, tensor in found:
        same = tensor.numel() == scores.numel() and len(tensor) == len(scores)
        if same and bool((tensor.detach().flatten() == scores.detach().flatten()).all()):
            return path
    return None


_ALONE: tuple[tuple[Any, ...], tuple[tuple[str, Any], ...], Any] = ((), (), 0)


def _with_images_only(
    call: PartCall, images: Tensor
) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...], Any] | None:
    """How the part is called with the images and what is no tensor: arguments, keywords, and where the images go."""
    places: list[Any] = [i for i, value in enumerate(call.args) if _is(value, images)]
    places += [name for name, value in call.keywords.items() if _is(value, images)]
    if not places:
        return None
    place = places[0]
    args = []
    for i, value in enumerate(call.args):
        if i != place and isinstance(value, Tensor):
            break  # labels, most likely: the part has to do without
        args.append(None if i == place else value)
    if isinstance(place, int) and place >= len(args):
        return None
    keywords = tuple(
        (k, None if k == place else v) for k, v in call.keywords.items() if k == place or not tensors_in(v)
    )
    try:
        inspect.signature(call.part.forward).bind(*args, **dict(keywords))
    except TypeError:
        return None
    if args == [None] and not keywords:
        return _ALONE
    return tuple(args), keywords, place


def _is(value: Any, images: Tensor) -> bool:
    same_form = isinstance(value, Tensor) and value.shape == images.shape and value.dtype == images.dtype
    return same_form and bool((value.detach() == images).all())


@dataclass(frozen=True)
class _Call:
    """Calls a part with the arguments that the step gives it, the images in their place."""

    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    place: Any

    def __call__(self, core: nn.Module, x: Tensor) -> Any:
        args = [x if i == self.place else value for i, value in enumerate(self.args)]
        return core(*args, **{name: x if name == self.place else value for name, value in self.keywords})
