"""What passes between an audit's parts, and from it to other callbacks."""

from dataclasses import dataclass, field
from typing import Any

from leakage_audit.callbacks.capture.gradient_check import GradientCheck
from leakage_audit.callbacks.evaluation.background import Parcel
from leakage_audit.callbacks.evaluation.evaluate import Evaluation
from leakage_audit.readings.reading import Status


@dataclass(frozen=True)
class Audit:
    """One audit, for other callbacks.

    Attributes:
        step: On the loggers' axis.
        optimizer_step: Counted from 0.
        metrics: Logged names and numbers; empty if the audit was skipped.
        skipped: Why it was, or None.
        severities: By attack, the word (see `scores.severity`) of the image that gave most away.
        status: What is known of the worst image (see `readings.reading`); None where nothing was attacked.
        no_results: Attacks without a result: the PSNR that they had reached, and the reason.
        leaked: How many images some attack got back recognisably, of how many.
    """

    step: int
    optimizer_step: int
    metrics: dict[str, float] = field(default_factory=dict)
    skipped: str | None = None
    severities: dict[str, str] = field(default_factory=dict)
    status: Status | None = None
    no_results: dict[str, tuple[float, str]] = field(default_factory=dict)
    leaked: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Result:
    """What looking at a step gave.

    Attributes:
        looks: One an image, or one for the step.
        verdict: On the step's own gradient, where it was recomputed.
        numbers: Logged names and numbers that were had without a look.
        parcel: What is for the background.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    gradient_check: GradientCheck | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    parcel: Parcel | None = None


@dataclass(frozen=True)
class Pending:
    """An audit that the background is busy with.

    Attributes:
        record: The head of its line in `audit.jsonl`.
        verdict: On the step's own gradient.
    """

    record: dict[str, Any]
    gradient_check: GradientCheck | None
