"""A training loop without a Trainer, plain PyTorch or Fabric, under the names that a Trainer has for the same things.

Audits ask a Trainer for its ranks, precision, loggers and optimisers, and leave numbers with it. `PlainTraining`
answers the same questions for a loop that somebody wrote by hand, so that everything behind a callback serves both.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leakage_audit.callbacks.capture.supported_trainers import is_kind

_WRAPPERS = {
    "_FabricModule": "_original_module",
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "AbstractGradSampleModule": "_module",  # Opacus'
    "DifferentiallyPrivateDistributedDataParallel": "module",
}


class PlainTraining:
    """Stands in for a Trainer; its attributes are a Trainer's.

    Args:
        model: As the loop calls it: compiled, distributed, or set up by Fabric.
        optimizer: Likewise.
        loggers: Of Lightning or Fabric.
        root: Where files go that no logger has a place for.
        scaler: With which the loop scales its loss; Fabric's is found.

    Attributes:
        module: The model without any wrapper.
        callbacks: Those that are called in this loop.
        batches_stepped: How many optimiser steps there have been: the x axis.
    """

    datamodule = train_dataloader = progress_bar_callback = None

    def __init__(
        self, model: nn.Module, optimizer: Any, loggers: Sequence[Any], root: Path, scaler: Any = None
    ) -> None:
        self.module = unwrapped(model)
        self.optimizers = [getattr(optimizer, "_optimizer", optimizer)]  # Fabric's wrapper steps this one
        fabric: Any = getattr(model, "_strategy", None) if is_kind(model, "_FabricModule") else None
        self.strategy: Any = _Processes(model) if fabric is None else fabric
        self.precision_plugin = PlainPrecision(self.module, None if fabric is None else fabric.precision, scaler)
        self.loggers, self.default_root_dir = list(loggers), str(root)
        self.callbacks: list[Any] = []
        self.callback_metrics: dict[str, Tensor] = {}
        self.progress_bar_metrics: dict[str, Any] = {}
        self.current_epoch = self.batches_stepped = 0
        self.should_stop = False
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.world_size = torch.distributed.get_world_size() if running else 1
        self.global_rank = torch.distributed.get_rank() if running else 0

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is the one that writes."""
        return self.global_rank == 0

    @property
    def log_dir(self) -> str | None:
        """The first logger's folder."""
        return next((str(found) for one in self.loggers if (found := getattr(one, "log_dir", None))), None)

    @property
    def precision(self) -> str:
        """In Lightning's words, such as `bf16-mixed`."""
        return self.precision_plugin.words


class PlainPrecision:
    """The precision that forward runs in: Fabric's, or the autocast that was seen around it.

    Args:
        module: Whose parameters say the device and the type.
        fabric: Fabric's own precision; None for a loop without Fabric.
        scaler: Of the loss.
    """

    def __init__(self, module: nn.Module, fabric: Any, scaler: Any) -> None:
        self._fabric = fabric
        self.scaler = scaler if scaler is not None else getattr(fabric, "scaler", None)
        first = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        self._device, self._type = first.device.type, first.dtype
        self._autocast: torch.dtype | None = None

    def see(self) -> None:
        """Take down the autocast that is on at this moment."""
        on = torch.is_autocast_enabled(self._device)
        self._autocast = torch.get_autocast_dtype(self._device) if on else None

    def train_step_context(self) -> AbstractContextManager:
        """What forward ran in."""
        if self._fabric is not None:
            context: AbstractContextManager = self._fabric.forward_context()
            return context
        return torch.autocast(self._device, dtype=self._autocast, enabled=self._autocast is not None)

    def convert(self, batch: Any) -> Any:
        """A batch as forward takes it: Fabric brings it to the type of a model that is half throughout."""
        halved = self._fabric is not None and "mixed" not in self.words
        return self._fabric.convert_input(batch) if halved else batch

    @property
    def words(self) -> str:
        """In Lightning's words."""
        if self._fabric is not None:
            return str(self._fabric.precision)
        kind = _BITS.get(self._autocast or self._type, "32")
        return f"{kind}-mixed" if self._autocast is not None else f"{kind}-true"

    @property
    def coarsest(self) -> torch.dtype:
        """The coarsest floating type that a step computes in: Fabric hands scores on in torch's default type."""
        types = {self._autocast or self._type} | ({torch.get_default_dtype()} if self._fabric is not None else set())
        return max(MIXED.get(self.words, self._type), *types, key=lambda kind: torch.finfo(kind).eps)


MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "transformer-engine": torch.bfloat16}
_BITS = {torch.float64: "64", torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "16"}


class _Processes:
    """In place of a strategy; called by the model's own class, where that is one that cannot be audited."""

    def __init__(self, model: nn.Module) -> None:
        kinds = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")
        self.sharded = next((kind for part in model.modules() for kind in kinds if is_kind(part, kind)), None)

    def broadcast(self, thing: Any) -> Any:
        """Rank 0's."""
        parts = [thing]
        torch.distributed.broadcast_object_list(parts)
        return parts[0]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that somebody wrote, without what compiles, distributes or sets it up."""
    while (inner := next((name for kind, name in _WRAPPERS.items() if is_kind(model, kind)), None)) is not None:
        model = getattr(model, inner)
    return model
