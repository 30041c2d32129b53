"""Which defence an audit has to see through."""

import logging

from lightning import Callback, LightningModule, Trainer

from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.own_opacus import opacus_of

log = logging.getLogger("leakage_audit")


def find_defence(trainer: Trainer, module: LightningModule, audit: Callback, optimizer: int) -> GradientDefence | None:
    """The defence that stands between the gradients of an optimiser and whoever they are shared with.

    Args:
        trainer: Connected to its optimisers.
        module: That is trained.
        audit: Who asks.
        optimizer: Index of the optimiser whose steps are audited.

    Raises:
        ValueError: If there are several, or it comes before the audit, which then could not check what it reads.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [callback for callback in callbacks if isinstance(callback, GradientDefence)]
    if len(found) > 1:
        raise ValueError(f"one GradientDefence at most can be audited, got {len(found)}: list its mechanisms in one")
    if found and callbacks.index(found[0]) < callbacks.index(audit):
        raise ValueError(f"{type(found[0]).__name__} must come after LeakageAudit in the list of callbacks")
    own, problem = opacus_of(trainer, module, trainer.optimizers[optimizer])
    if own is not None and found:
        raise ValueError(
            f"the optimiser is Opacus' own, which puts other gradients in the place of what {type(found[0]).__name__} "
            "leaves: keep one of the two"
        )
    if problem and trainer.is_global_zero:
        log.warning(problem)
    return own or (found[0] if found else None)
