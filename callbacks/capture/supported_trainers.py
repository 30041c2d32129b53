"""Which trainers can be audited; the others are refused before the fit begins, with the reason."""

from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import LBFGS

_WHY = {
    "FSDPStrategy": "each process holds only a shard of every gradient",
    "ModelParallelStrategy": "each process holds only a shard of every gradient",
    "DeepSpeedStrategy": "its engine does backward and step by itself and shows the complete gradient to no callback",
}


def refuse_unsupported(trainer: Trainer, optimizer: int, background: bool = False) -> None:
    """Raise where the gradient of a step cannot be read rightly.

    Args:
        trainer: Connected to its strategy and optimisers (from `on_fit_start` on).
        optimizer: Index of the optimiser whose steps are audited.
        background: Whether attacks are to run in a process of their own.

    Raises:
        MisconfigurationException: With the reason.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        reason = _WHY.get(type(strategy).__name__, "it is neither a single device nor DDP, and has not been tried")
        raise MisconfigurationException(f"LeakageAudit cannot audit under {type(strategy).__name__}: {reason}")
    if background and trainer.world_size > 1:
        raise MisconfigurationException(
            "LeakageAudit(background=True) with several processes: their results would arrive at different times, and "
            "could not be gathered; leave it out, each process audits a share"
        )
    if not trainer.optimizers:
        raise MisconfigurationException("LeakageAudit audits optimiser steps, but configure_optimizers returned none")
    if not 0 <= optimizer < len(trainer.optimizers):
        known = f"there are {len(trainer.optimizers)}, counted from 0"
        raise MisconfigurationException(f"LeakageAudit(optimizer={optimizer}): no such optimiser; {known}")
    if isinstance(trainer.optimizers[optimizer], LBFGS):
        raise MisconfigurationException(
            "LeakageAudit cannot audit L-BFGS: it evaluates several gradients within one step, at different weights"
        )
