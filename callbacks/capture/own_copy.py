"""Copies of anything of a user's, that share no memory and no state with it."""

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from threading import Lock, RLock
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from leakage_audit.callbacks.capture.distributed import AuditSkipped

TRAINERS = ("_trainer", "_fabric")
_SPECIAL = (torch.Generator, Optimizer, Dataset, DataLoader, ModuleType, type(Lock()), type(RLock()))


class _NoLock:
    """In place of a lock: nobody else uses the copy."""

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *error: object) -> None:
        pass


def memo_of(value: Any, memo: dict[int, Any], every_tensor: bool = False) -> dict[int, Any]:
    """What `copy.deepcopy` must put in the place of things that it copies wrongly or not at all.

    Args:
        value: To be copied, with all that hangs on it.
        memo: What is settled already; extended.
        every_tensor: Whether tensors without a graph are cloned here too: `deepcopy` would copy all the memory that a
            view is a part of, the whole data set of a batch.
    """
    for found in list(_hanging_on(value, set(memo), every_tensor)):
        if isinstance(found, Tensor):
            memo[id(found)] = found.detach().clone()
        elif isinstance(found, torch.Generator):
            memo[id(found)] = found.clone_state()
        elif isinstance(found, Optimizer):
            memo[id(found)] = None  # the copy must not step, and moments take as much memory as weights
        elif isinstance(found, Dataset | DataLoader | ModuleType):
            memo[id(found)] = found  # read only, and data are too large to be copied
        else:
            memo[id(found)] = _NoLock()
    return memo


def clone(batch: Any) -> Any:
    """A batch of any form with memory of its own, without graphs.

    Raises:
        AuditSkipped: If it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(batch, memo_of(batch, {}, every_tensor=True))
    except Exception as error:  # whatever a user's object raises
        raise AuditSkipped(f"the batch cannot be copied ({type(error).__name__}: {error})") from error


def own(function: Any, model_copy: nn.Module) -> Any:
    """A function that a user has given, so that calling it moves nothing of the user's.

    Args:
        function: With a state, if it is an object or a method of one.
        model_copy: Made by `copy_module`: in its place where it is a method of such a module.
    """
    if isinstance(function, FunctionType | BuiltinFunctionType | type):
        return function
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module) and type(owner) is type(model_copy):
        return getattr(model_copy, function.__name__)
    return copy.deepcopy(function, memo_of(function, {}))


def copy_data(datamodule: Any, trainer: Any) -> Any:
    """A data module whose methods may be called: it shares data sets, tensors and arrays with the training's own.

    Args:
        datamodule: Or None.
        trainer: Is not copied.
    """
    try:
        shared = {id(part): part for part in vars(datamodule).values() if isinstance(part, Tensor | np.ndarray)}
        return copy.deepcopy(datamodule, memo_of(datamodule, {id(trainer): None} | shared))
    except Exception:  # whatever a user's object raises
        return copy.copy(datamodule)


def _hanging_on(value: Any, met: set[int], every_tensor: bool) -> Iterator[Any]:
    """Every object that hangs on a value and must not be copied by the book: graphs, generators, locks and so on."""
    met.add(id(value))
    waiting: deque[tuple[Any, int]] = deque([(value, 0)])
    while waiting:
        value, depth = waiting.popleft()
        if isinstance(value, Tensor):
            if every_tensor or value.grad_fn is not None:
                yield value
            continue
        if isinstance(value, _SPECIAL):
            yield value
            continue
        parts: Any = ()
        if isinstance(value, Mapping):
            parts = [*value.values(), *getattr(value, "__dict__", {}).values()]
        elif isinstance(value, list | tuple | set | deque):
            parts = value
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            parts = [part for name, part in vars(value).items() if name not in TRAINERS]
        for part in parts:
            if id(part) not in met and not isinstance(part, str | int | float) and depth < 12:
                met.add(id(part))
                waiting.append((part, depth + 1))
