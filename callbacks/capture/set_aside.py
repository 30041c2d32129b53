"""What a user's code reaches beside its module (globals, class attributes, closures), set aside while an audit runs it.

A criterion or a metric at the top of a script, a list of losses on a class, a counter in a closure: a copy of the
module calls the same ones. While an audit runs, copies stand in their places; then they are put back. Which they are,
the code says: beginning with `forward`, `training_step` and the losses, each function is read for the names it uses.
"""

import copy
import dis
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from leakage_audit.callbacks.capture.loss_lookup import NAMES
from leakage_audit.callbacks.capture.model_copy import resolve
from leakage_audit.callbacks.capture.own_copy import memo_of
from leakage_audit.callbacks.capture.silent import Silent
from leakage_audit.callbacks.capture.supported_trainers import is_kind

_RUN = ("forward", "training_step", "__call__", "__getattr__", *NAMES)  # what an audit calls, on any module
_INSTALLED = ("site-packages", "dist-packages")
# Experiment trackers: what is told them is not taken back.
_TRACKERS = ("wandb", "mlflow", "comet_ml", "neptune", "clearml", "aim", "swanlab", "tensorboardX", "trackio")
_STATELESS: tuple[type, ...] = (
    *(str, bytes, int, float, complex, bool, type(None), type, ModuleType, FunctionType, BuiltinFunctionType),
    *(torch.dtype, torch.device, Path, property, staticmethod, classmethod),
)
_DATA = (Dataset, DataLoader)  # read only, and too large to be copied


@dataclass(frozen=True)
class _Place:
    """Where a name leads to an object: what is there, and how something else is put there."""

    value: Any
    put: Callable[[Any], None]


@contextmanager
def set_aside(module: nn.Module, *given: Any) -> Iterator[None]:
    """Have the user's code work on copies of all that it reaches beside the module.

    Args:
        module: The training's own; its classes' functions are read.
        given: Functions of the user's that the audit calls too, or their dotted names.
    """
    places = _Reach(module, given).places
    memo: dict[int, Any] = {}
    try:
        for place in places:
            place.put(_stand_in(place.value, memo))
        yield
    finally:
        for place in places:
            place.put(place.value)


def _stand_in(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, _STATELESS) and not _is_tracker(value):
        return value  # to be put back if the name comes to mean something else
    if _is_tracker(value):
        return Silent()
    try:
        return copy.deepcopy(value, memo_of(value, memo))
    except Exception:  # whatever a user's object raises; torch's own handles (process groups, streams) keep nothing
        return value if type(value).__module__.split(".")[0] == "torch" else Silent()


def _is_tracker(value: Any) -> bool:
    origin = value.__name__ if isinstance(value, ModuleType) else type(value).__module__
    return origin.split(".")[0] in _TRACKERS or origin.startswith("torch.utils.tensorboard")


class _Reach:
    """The places that the functions of a module's classes lead to."""

    def __init__(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._places: dict[tuple[int, str], _Place] = {}
        self._read: set[int] = set()
        self._classes: dict[type, None] = {}
        self._names, self._known = set(_RUN), 0
        for part in module.modules():
            self._visit_class(type(part))
            for value in vars(part).values():
                self._visit(value)
        for value in given:
            self._visit(_named(value) if isinstance(value, str) else value)
            self._names |= set(value.split(".")) if isinstance(value, str) else set()
        while self._known != len(self._names) + len(self._classes):  # a function leads to further names
            self._known = len(self._names) + len(self._classes)
            for kind in list(self._classes):
                self._attributes(kind)

    @property
    def places(self) -> list[_Place]:
        """Each once."""
        return list(self._places.values())

    def _visit(self, value: Any) -> None:
        """Go on from what a name means."""
        if isinstance(value, MethodType | staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._visit_class(value)
        elif isinstance(value, list | tuple | dict):
            for part in value.values() if isinstance(value, dict) else value:
                if callable(part):
                    self._visit(part)
        elif not isinstance(value, _STATELESS):
            self._visit_class(type(value))

    def _visit_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base not in self._classes and _by_user(getattr(base, "__module__", "")):
                self._classes[base] = None

    def _attributes(self, kind: type) -> None:
        for name, value in list(vars(kind).items()):
            if name not in self._names:
                continue
            self._visit(value)
            if not hasattr(type(value), "__get__"):
                self._add(kind, name, value, partial(setattr, kind, name))

    def _function(self, function: FunctionType) -> None:
        if id(function) in self._read or not _users(function.__code__.co_filename):
            return
        self._read.add(id(function))
        self._visit(getattr(function, "__wrapped__", None))
        names, attributes = _names_in(function.__code__)
        self._names |= attributes
        self._namespace(function.__globals__, names, attributes)
        for cell in function.__closure__ or ():
            self._cell(cell)

    def _namespace(self, namespace: dict[str, Any], names: set[str], attributes: set[str]) -> None:
        for name in names & namespace.keys():
            value = namespace[name]
            self._visit(value)
            if isinstance(value, ModuleType) and _by_user(value.__name__) and id(value) not in self._read:
                self._read.add(id(value))
                self._namespace(vars(value), attributes, attributes)
            self._add(namespace, name, value, partial(namespace.__setitem__, name))

    def _cell(self, cell: CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # not yet filled
            return
        self._visit(value)
        self._add(cell, "", value, partial(setattr, cell, "cell_contents"))

    def _add(self, owner: Any, name: str, value: Any, put: Callable[[Any], None]) -> None:
        inert = isinstance(value, type | ModuleType | FunctionType) and not _is_tracker(value)
        if not (inert or isinstance(value, _DATA) or is_kind(value, "Trainer", "LightningDataModule")):
            self._places.setdefault((id(owner), name), _Place(value, put))


def _named(name: str) -> Any:
    try:
        return resolve(name)
    except ValueError:  # the module's own
        return None


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """The global names and the attributes that a function's code uses, nested functions included."""
    names: set[str] = set()
    attributes: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname.endswith(("_GLOBAL", "_NAME")):
            names.add(str(step.argval))
        elif step.opname.endswith(("_ATTR", "_METHOD")):
            attributes.add(str(step.argval))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _names_in(constant)
            names |= inner[0]
            attributes |= inner[1]
    return names, attributes


def _users(file: str) -> bool:
    """Whether a file is a script's, a notebook's cell or a package's that is not installed."""
    standard = file.startswith((sysconfig.get_paths()["stdlib"], "<frozen"))
    return not standard and not any(part in _INSTALLED for part in Path(file).parts)


def _by_user(module: str) -> bool:
    """Whether a module is the user's; one without a file is, if it is not built in."""
    known = module in sys.modules and module not in sys.builtin_module_names and module.split(".")[0] != "leakage_audit"
    return known and _users(getattr(sys.modules[module], "__file__", None) or "")
