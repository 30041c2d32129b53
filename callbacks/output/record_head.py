"""The head of a line of `audit.jsonl`: what is needed to run an audit again."""

from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from leakage_audit.callbacks.capture.gradient_check import GradientCheck
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.output.loggers import log_step
from leakage_audit.callbacks.settings import Settings
from leakage_audit.options import recorded


def record_head(
    trainer: Trainer,
    settings: Settings,
    kind: str,
    step: int,
    about: Mapping[str, Any],
    check: GradientCheck | None,
    defence: GradientDefence | None,
) -> dict[str, Any]:
    """Everything of a record but what was found.

    Args:
        trainer: Of the fit.
        settings: Of the audit.
        kind: `audit` or `measure`.
        step: The optimiser's, counted from 0.
        about: In words, what was assumed of the module, and what the guess is.
        check: On the step's own gradient, where it was recomputed.
        defence: What is done to gradients before they are shared.
    """
    head: dict[str, Any] = {"kind": kind, "step": log_step(trainer), "optimizer_step": step}
    head |= {"epoch": trainer.current_epoch, "gradient": settings.gradient, "probe": settings.probe}
    head |= {"seed": settings.seed, "knowledge": settings.knowledge, **about}
    head |= {"precision": str(trainer.precision), "ranks": trainer.world_size}
    head["options"] = recorded(settings.options)
    head |= {"max_seconds": settings.max_seconds, "max_memory_gb": settings.max_memory_gb}
    if defence is not None:
        head["defence"] = defence.settings
    if check is not None:
        head["verified"] = {"error": check.rest, "tolerance": check.tolerance, "scale": check.scale}
    return head
