"""Why a step's gradient is not the one that was recomputed, in words: what is known goes before what may be."""

from typing import Any

from leakage_audit.callbacks.capture.gradient_check import ReadStep
from leakage_audit.callbacks.capture.supported_trainers import is_kind


def mismatch(read: ReadStep, optimizer: Any) -> str:
    """The reason for which an audit of this step is skipped.

    Args:
        read: The step, whose gradient is not the recomputed one.
        optimizer: That is audited.
    """
    check = read.check
    if is_kind(optimizer, "DistributedDPOptimizer"):
        return (
            "Opacus adds up what the processes share within its optimiser's own step, and before it each has a "
            "gradient of its own, not their mean: this process' differs from the recomputed gradient by "
            f"{100 * check.rest:.3g} %"
        )
    return (f"{read.reason}; " if read.reason else "") + f"the step's gradient {check}"
