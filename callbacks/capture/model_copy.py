"""Where in a LightningModule the classifier is: which part maps images to scores, and how it is called."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Forward = str | Callable[[nn.Module, Tensor], Any]
Path = tuple[str | int, ...]

_SCORES = ("logits", "scores", "pred", "preds", "prediction", "out", "output", "y_hat")


@dataclass(frozen=True)
class Classifier:
    """How scores are computed in a LightningModule, or in a copy of it.

    Attributes:
        words: For the record.
        path: Of the submodule that computes them; empty for the LightningModule.
        call: `call(submodule, x)`; None to call the submodule itself.
        pick: Where in the output the scores are, by keys, attributes and indices; empty looks for them.
    """

    words: str
    path: str = ""
    call: Callable[[nn.Module, Tensor], Any] | None = None
    pick: Path = ()

    def network(self, model_copy: nn.Module, plain_output: bool) -> nn.Module:
        """The classifier of a copy, as a module that maps inputs `(B, C, H, W)` to scores `(B, classes)`.

        Args:
            model_copy: Made by `copy_module`.
            plain_output: Whether the part returns scores `(B, classes)` and nothing else, so that no adapter is needed
                and the network is the part itself.
        """
        core = model_copy.get_submodule(self.path)
        return core if self.call is None and plain_output else Scores(core, self.call, self.pick)

    def name_in_module(self, network: nn.Module, name: str) -> str:
        """What one of the network's parameters is called in the LightningModule (compile wrappers left out)."""
        own = name.removeprefix("core.") if isinstance(network, Scores) else name
        return ".".join(filter(None, (plain(self.path), own)))


class Scores(nn.Module):
    """A part of a module whose scores are found in what it, or a function of it, returns.

    Args:
        core: The part.
        call: `call(core, x)`; None calls the part itself.
        pick: Keys, attributes and indices that lead to the scores; empty looks for them.
    """

    def __init__(self, core: nn.Module, call: Callable[[nn.Module, Tensor], Any] | None, pick: Path) -> None:
        super().__init__()
        self.core, self.call, self.pick = core, call, pick

    def forward(self, x: Tensor) -> Any:
        """Scores `(B, classes)` where they are found, else the output as it is."""
        output = self.core(x) if self.call is None else self.call(self.core, x)
        # In eval mode some return scores alone where they return more while they train.
        found = (
            output if isinstance(output, Tensor) else follow(output, self.pick) if self.pick else find_scores(output)
        )
        return found.flatten(1) if isinstance(found, Tensor) and found.ndim > 2 and _flat(found) else found


def find_scores(output: Any) -> Any:
    """The scores in an output of several parts: under a usual name, else the first tensor, else the output."""
    parts = [(path, tensor) for path, tensor in tensors_in(output) if tensor.is_floating_point() and _flat(tensor)]
    named = [tensor for path, tensor in parts if path and str(path[-1]).lower() in _SCORES]
    return next(iter(named or (tensor for _, tensor in parts)), output)


def tensors_in(value: Any, path: Path = (), depth: int = 4) -> list[tuple[Path, Tensor]]:
    """The tensors of a nesting of mappings, sequences and objects with fields, each with the way to it."""
    if isinstance(value, Tensor):
        return [(path, value)]
    if depth == 0:
        return []
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        parts = vars(value).items()
    return [found for key, part in parts for found in tensors_in(part, (*path, key), depth - 1)]


def follow(value: Any, path: Path) -> Any:
    """What lies at the end of a path, as `tensors_in` gives them."""
    for key in path:
        value = value[key] if isinstance(value, Mapping) or isinstance(key, int) else getattr(value, str(key))
    return value


def _flat(tensor: Tensor) -> bool:
    """Whether it holds one row of numbers an image."""
    return tensor.ndim >= 2 and all(size == 1 for size in tensor.shape[2:])


def plain(name: str) -> str:
    """A parameter's or module's name without the wrappers that torch.compile puts in between."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def resolve(name: str) -> Any:
    """Import a dotted name.

    Raises:
        ValueError: If there is no such thing.
    """
    path, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(path), last)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} is neither on the LightningModule nor importable: {error}") from error


def locate(module: nn.Module, forward: Forward | None) -> Classifier:
    """Find the classifier.

    Args:
        module: The LightningModule, or a copy of it: properties are evaluated.
        forward: How scores are computed: None for the module's own `forward` (or, where it defines none, its only
            submodule with parameters); a dotted name of a submodule or method of the module, or of a function
            `f(module, x)` anywhere; or such a function itself.

    Raises:
        ValueError: If it is not found.
    """
    if callable(forward):
        return Classifier(f"scores by {getattr(forward, '__qualname__', type(forward).__name__)}", call=forward)
    if forward is not None:
        try:
            target = attribute(module, forward)
        except AttributeError:
            return Classifier(f"scores by {forward}", call=resolve(forward))
        if isinstance(target, nn.Module):
            return Classifier(f"scores by the submodule {forward}", path=forward)
        return Classifier(f"scores by the method {forward}", call=_Method(forward))
    if defines_forward(module):
        return Classifier("scores by forward")
    children = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    if len(children) != 1:
        parts = ", ".join(children) or "none"
        raise ValueError(
            f"{type(module).__name__} defines no forward and has several or no parts with parameters ({parts}); "
            "name the one that maps images to scores by `forward`"
        )
    return Classifier(f"scores by the submodule {children[0]}", path=children[0])


def defines_forward(module: nn.Module) -> bool:
    """Whether a module's class, below Lightning's and torch's own, says what its forward pass is."""
    definer = next((base for base in type(module).__mro__ if "forward" in vars(base)), nn.Module)
    return definer.__module__.split(".")[0] not in ("lightning", "pytorch_lightning") and definer is not nn.Module


@dataclass(frozen=True)
class _Method:
    """Calls a module's method by its name; unlike a lambda it can be sent to another process."""

    name: str

    def __call__(self, core: nn.Module, x: Tensor) -> Any:
        return attribute(core, self.name)(x)


def attribute(module: nn.Module, path: str) -> Any:
    """Follow a dotted path from a module; AttributeError where it ends."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found
