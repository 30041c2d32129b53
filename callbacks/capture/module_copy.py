"""A whole LightningModule copied for one audit: what the audit runs of the user's runs on this copy and nowhere else.

The copy has the module's parameters, buffers, modes, plain attributes, losses, metrics and generators as they are at
this moment; it has no graph, no hooks of the user's, no compiled code, no logger, and no way to the real optimisers.
"""

import copy
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from leakage_audit.callbacks.capture.own_copy import TRAINERS, memo_of
from leakage_audit.callbacks.capture.silent import Silent
from leakage_audit.callbacks.capture.trainer_view import TrainerView

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")
_TREE = ("_parameters", "_buffers", "_modules", *TRAINERS)
# Anything of these does its work in the trainer; on a copy they do nothing.
_SILENT = ("log", "log_dict", "print", "manual_backward")
_STEPPING = ("optimizers", "lr_schedulers")  # asked for their rates, mostly
_PLAIN = (str, bytes, int, float, bool, type(None), Tensor, nn.Module, type)


class _State:
    """Lightning leaves the trainer out of what is copied or pickled; the view of it stays in.

    It does not keep its owner alive: in a circle, copies would take memory until Python looks for circles.
    """

    def __init__(self, owner: nn.Module) -> None:
        self._owner = weakref.ref(owner)

    def __call__(self) -> dict[str, Any]:
        return dict(vars(self._owner()))

    def __deepcopy__(self, memo: dict[int, Any]) -> "_State":
        owner: Any = self._owner()
        return _State(memo.get(id(owner), owner))  # a copy's owner is there before what it holds

    def __reduce__(self) -> tuple[type, tuple[nn.Module | None]]:
        return _State, (self._owner(),)


def copy_module(module: nn.Module, trainer: Any) -> tuple[nn.Module, list[str]]:
    """Copy a module with everything that hangs on it.

    Args:
        module: The LightningModule; left as it is.
        trainer: Whose `TrainerView` the copy gets.

    Returns:
        The copy, and what could not be copied and is None there, as `name (type)`.
    """
    memo = memo_of(module, {id(trainer): None})
    _without_compilation(module, memo)
    dropped: list[str] = []
    for part in module.modules():
        memo.update((id(hook), None) for hooks in _HOOKS for hook in vars(part)[hooks].values() if not _computes(hook))
        for name, value in vars(part).items():
            if _is_handles(value):  # by them a copy would reach what has set the hooks: Opacus' optimiser, for one
                memo[id(value)] = None
            elif name not in _TREE and name not in _HOOKS:
                _drop_what_fails(name, value, memo, dropped, depth=2)
    model_copy: nn.Module = copy.deepcopy(module, memo)
    for part in model_copy.modules():
        _detach(part, trainer)
    return model_copy, dropped


def _without_compilation(module: nn.Module, memo: dict[int, Any]) -> None:
    for part in reversed(list(module.modules())):
        inner, compiler = getattr(part, "_orig_mod", None), vars(part).get("_compiler_ctx")
        if compiler is not None:  # Lightning's record of fit(torch.compile(module)): holds what cannot be copied
            memo[id(compiler)] = None
            memo.update((id(vars(part)[name]), None) for name in _STEPS if name in vars(part))
        if inner is not None:
            memo[id(part)] = copy.deepcopy(inner, memo)


def _is_handles(value: Any) -> bool:
    """Whether something is there to take hooks away with, which the copy has none of."""
    several = isinstance(value, list | tuple) and len(value) > 0
    return isinstance(value, RemovableHandle) or (several and all(isinstance(one, RemovableHandle) for one in value))


def _drop_what_fails(name: str, value: Any, memo: dict[int, Any], dropped: list[str], depth: int) -> None:
    """Leave out of the copy what cannot be copied, as little of it as possible."""
    if id(value) in memo or isinstance(value, _PLAIN):
        return
    try:
        copy.deepcopy(value, dict(memo))
        return
    except Exception:  # whatever a user's object raises
        parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if depth:
        for key, part in parts:
            _drop_what_fails(f"{name}[{key!r}]", part, memo, dropped, depth - 1)
        try:
            copy.deepcopy(value, dict(memo))
            return
        except Exception:
            pass
    memo[id(value)] = None
    dropped.append(f"{name} ({type(value).__name__})")


def _detach(part: nn.Module, trainer: Any) -> None:
    """Cut a part of the copy off from hooks, loggers and trainer."""
    own = vars(part)
    for name in [name for name in _STEPS if name in own and own[name] is None]:
        delattr(part, name)
    for hooks in _HOOKS:
        kept = getattr(part, hooks)
        for key in [k for k, hook in kept.items() if not _computes(hook)]:
            del kept[key]
    if "_trainer" in own:
        if not isinstance(own["_trainer"], TrainerView):  # a copy's copy keeps its own, of the same moment
            own["_trainer"] = None if trainer is None else TrainerView(trainer)
        own["__getstate__"] = _State(part)
        own.update({name: _nothing for name in _SILENT} | {name: _silence for name in _STEPPING})


def _computes(hook: Any) -> bool:
    """Whether a hook is part of the computation (weight or spectral norm), not somebody's observation of it."""
    return (getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.nn.utils")


def _silence(*args: Any, **kwargs: Any) -> Silent:
    """What optimisers and schedulers come to on a copy."""
    return Silent()


def hooks_left_out(module: nn.Module) -> str:
    """In a sentence, which hooks of the user's a copy is without; empty if there are none."""
    parts = [
        path or "the module"
        for path, part in module.named_modules()
        if any(not _computes(hook) for hooks in _HOOKS for hook in vars(part)[hooks].values())
    ]
    parts += [name for name, p in module.named_parameters() if p._backward_hooks]
    return f"the audit's copy of the module has none of your hooks (of {', '.join(parts[:3])})" * bool(parts)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """What logging comes to on a copy."""
