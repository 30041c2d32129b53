"""Which trainers can be audited, and as what; the others are refused before the fit begins, with the reason.

Lightning is installed under two names, `lightning` and `pytorch_lightning`, whose classes are no relatives: what an
object is, is asked by the names of its classes, and nothing is imported from a package that the trainer is not of.
"""

import importlib
import inspect
from typing import Any

from torch import nn
from torch.optim import LBFGS

from leakage_audit.callbacks.capture.model_copy import resolve

_WHY = {
    "FSDPStrategy": "each process holds only a shard of every gradient",
    "ModelParallelStrategy": "each process holds only a shard of every gradient",
    "DeepSpeedStrategy": "its engine does backward and step by itself and shows the complete gradient to no callback",
}
_WHY |= {  # a plain loop's models, by their own classes
    "FullyShardedDataParallel": _WHY["FSDPStrategy"],
    "FSDPModule": _WHY["FSDPStrategy"],
    "DeepSpeedEngine": _WHY["DeepSpeedStrategy"],
}


def is_kind(thing: Any, *names: str) -> bool:
    """Whether an object is of a Lightning class of one of these names, in either package."""
    return any(base.__name__ in names for base in type(thing).__mro__)


def misconfiguration(trainer: Any, message: str) -> Exception:
    """The `MisconfigurationException` of the trainer's own package."""
    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    error: Exception = importlib.import_module(f"{package}.utilities.exceptions").MisconfigurationException(message)
    return error


def refuse_unsupported(trainer: Any, module: nn.Module, settings: Any) -> None:
    """Raise where the gradient of a step cannot be read rightly, or a setting names what is not there.

    Args:
        trainer: Connected to its strategy and optimisers (from `on_fit_start` on).
        module: That is trained.
        settings: Of the audit.

    Raises:
        MisconfigurationException: With the reason.
    """
    reason = _reason(trainer, settings.optimizer, settings.background) or _misnamed(module, settings)
    if reason is not None:
        error = misconfiguration(trainer, reason)
        raise error


def _reason(trainer: Any, optimizer: int, background: bool) -> str | None:
    strategy = trainer.strategy
    kind = getattr(strategy, "sharded", None) or type(strategy).__name__
    if kind in _WHY or not is_kind(strategy, "SingleDeviceStrategy", "DDPStrategy", "_Processes"):
        reason = _WHY.get(kind, "it is neither a single device nor DDP, and has not been tried")
        return f"LeakageAudit cannot audit under {kind}: {reason}"
    if background and trainer.world_size > 1:
        return (
            "LeakageAudit(background=True) with several processes: their results would arrive at different times, and "
            "could not be gathered; leave it out, each process audits a share"
        )
    if not trainer.optimizers:
        return "LeakageAudit audits optimiser steps, but configure_optimizers returned none"
    if not 0 <= optimizer < len(trainer.optimizers):
        known = f"there are {len(trainer.optimizers)}, counted from 0"
        return f"LeakageAudit(optimizer={optimizer}): no such optimiser; {known}"
    if isinstance(trainer.optimizers[optimizer], LBFGS):
        return "LeakageAudit cannot audit L-BFGS: it evaluates several gradients within one step, at different weights"
    return None


def _misnamed(module: nn.Module, settings: Any) -> str | None:
    """Which of the names given leads nowhere; no property of the module is evaluated."""
    for setting in ("forward", "loss", "unpack"):
        name = getattr(settings, setting)
        if not isinstance(name, str) or _has(module, name.split(".")[0]):
            continue
        try:
            resolve(name)
        except ValueError as error:
            return f"LeakageAudit({setting}={name!r}): {error}"
    return None


def _has(module: nn.Module, name: str) -> bool:
    registered = name in module._modules or name in module._parameters or name in module._buffers
    return registered or inspect.getattr_static(module, name, None) is not None
