"""The audit's own copy of the classifier inside a LightningModule: eager, free of hooks, refreshed before each audit.

Working on a copy is what leaves no trace: buffers, modes, `.grad`, hooks and the autograd graph of the module that is
trained are never touched.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

Forward = str | Callable[[nn.Module, Tensor], Tensor]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ModelCopy:
    """A copy of the classifier that maps inputs `(B, C, H, W)` to class scores.

    Args:
        module: The LightningModule.
        forward: How scores are computed: None for the module's own `forward` (or, where it defines none, its only
            submodule with parameters); a dotted name of a submodule or method of the module, or of a function
            `f(module, x)` anywhere; or such a function itself.

    Attributes:
        assumed: In words, where the scores come from.

    Raises:
        ValueError: If the classifier is not found or cannot be copied.
    """

    def __init__(self, module: nn.Module, forward: Forward | None = None) -> None:
        self._path, self._call, self.assumed = _locate(module, forward)
        self._network: nn.Module | None = None

    def refresh(self, module: nn.Module) -> None:
        """Take over weights, buffers, modes and `requires_grad`; copy anew if the module was rebuilt meanwhile."""
        if self._network is None:
            self._network = self._copy(module)
            return
        source = dict(_state(module.get_submodule(self._path)))
        own = dict(_state(self._core))
        if {n: (t.shape, t.dtype, t.device) for n, t in source.items()} != {
            n: (t.shape, t.dtype, t.device) for n, t in own.items()
        }:
            self._network = self._copy(module)
            return
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(source[name])
                if tensor.is_leaf:
                    tensor.requires_grad_(source[name].requires_grad)
        parts = {plain(name): part for name, part in module.get_submodule(self._path).named_modules()}
        for name, part in self._core.named_modules():
            part.training = parts[name].training
        self.network.training = self._core.training

    def name_in_module(self, name: str) -> str:
        """What one of the network's parameters is called in the LightningModule (compile wrappers left out)."""
        own = name.removeprefix("core.") if self._call else name
        return ".".join(filter(None, (plain(self._path), own)))

    @property
    def network(self) -> nn.Module:
        """The copy, as it was at the last refresh."""
        if self._network is None:
            raise RuntimeError("the twin holds nothing before its first refresh")
        return self._network

    @property
    def _core(self) -> nn.Module:
        return self.network.core if isinstance(self.network, _Called) else self.network

    def _copy(self, module: nn.Module) -> nn.Module:
        try:
            core = _eager_copy(module.get_submodule(self._path))
        except Exception as error:  # deepcopy lets through whatever a user's attribute raises
            raise ValueError(
                f"{type(module).__name__} cannot be copied for the audit ({error}); "
                "name the submodule that maps images to scores by `forward`"
            ) from error
        return core if self._call is None else _Called(core, self._call)


class _Called(nn.Module):
    """A module whose scores are computed by a function of it."""

    def __init__(self, core: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.core, self.call = core, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.core, x)


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


def _locate(
    module: nn.Module, forward: Forward | None
) -> tuple[str, Callable[[nn.Module, Tensor], Tensor] | None, str]:
    """Path of the submodule to copy, the function that calls it (None: itself), and both in words."""
    if callable(forward):
        return "", forward, f"scores by {getattr(forward, '__qualname__', type(forward).__name__)}"
    if forward is not None:
        try:
            target = attribute(module, forward)
        except AttributeError:
            return "", resolve(forward), f"scores by {forward}"
        if isinstance(target, nn.Module):
            return forward, None, f"scores by the submodule {forward}"
        return "", lambda core, x: attribute(core, forward)(x), f"scores by the method {forward}"
    if type(module).forward not in (LightningModule.forward, nn.Module.forward):
        return "", None, "scores by forward"
    children = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    if len(children) != 1:
        parts = ", ".join(children) or "none"
        raise ValueError(
            f"{type(module).__name__} defines no forward and has several or no parts with parameters ({parts}); "
            "name the one that maps images to scores by `forward`"
        )
    return children[0], None, f"scores by the submodule {children[0]}"


def attribute(module: nn.Module, path: str) -> Any:
    """Follow a dotted path from a module; AttributeError where it ends."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by plain name, those outside the state dict too."""
    for name, parameter in module.named_parameters():
        yield plain(name), parameter
    for name, buffer in module.named_buffers():
        yield plain(name), buffer


def _eager_copy(module: nn.Module) -> nn.Module:
    """Deep copy without compilation and without the user's hooks."""
    memo: dict[int, Any] = {}
    for part in reversed(list(module.modules())):
        inner, compiler = getattr(part, "_orig_mod", None), vars(part).get("_compiler_ctx")
        if compiler is not None:  # Lightning's record of fit(torch.compile(module)): holds what cannot be copied
            memo[id(compiler)] = None
            memo.update((id(vars(part)[name]), None) for name in _STEPS if name in vars(part))
        if inner is not None:
            memo[id(part)] = copy.deepcopy(inner, memo)
    model_copy: nn.Module = copy.deepcopy(module, memo)
    for part in model_copy.modules():
        for name in _STEPS:
            if name in vars(part) and vars(part)[name] is None:
                delattr(part, name)
        for hooks in _HOOKS:
            kept = getattr(part, hooks)
            for key in [k for k, hook in kept.items() if not _computes(hook)]:
                del kept[key]
    return model_copy


_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def _computes(hook: Any) -> bool:
    """Whether a hook is part of the computation (weight or spectral norm), not somebody's observation of it."""
    return (getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.nn.utils")
