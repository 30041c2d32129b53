"""Where an audit's results go: loggers, `callback_metrics`, `audit.jsonl`, pictures."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer

from leakage_audit.callbacks.evaluation.evaluate import Evaluation
from leakage_audit.callbacks.output import loggers, records
from leakage_audit.callbacks.output.image_grid import picture
from leakage_audit.callbacks.output.loggers import log_step as log_step

Say = Callable[[str], None]


def publish(
    trainer: Trainer,
    evaluations: Sequence[Evaluation],
    metrics: dict[str, float],
    record: dict[str, Any],
    folder: Path | None,
    say: Say,
    attacks: Iterable[str] = (),
) -> None:
    """Log an audit; what cannot be written is said, and the training goes on.

    Args:
        trainer: Whose loggers.
        evaluations: What was found, of all ranks; empty for a skipped audit, or for numbers without a look.
        metrics: The logged names and numbers.
        record: The head of the audit's line in `audit.jsonl`.
        folder: Where files go; None writes none (fast_dev_run).
        say: Told of what could not be written.
        attacks: The names that had to have a number.
    """
    if record["kind"] == "audit":
        loggers.supersede(trainer, record.get("tag", "audit"), attacks, metrics)
    loggers.remember(trainer, metrics)
    if trainer.is_global_zero:
        for work in (
            lambda: loggers.log_scalars(trainer, metrics, record["step"]),
            lambda: _pictures(trainer, evaluations, record, folder),
            lambda: _line(evaluations, record | {"metrics": metrics}, folder),
        ):
            try:
                work()
            except Exception as error:  # a full disk or a logger's failure must not end the training
                say(f"an audit's result could not be written: {type(error).__name__}: {error}")


def repeat(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Log numbers that are as they were when last published: to the loggers as often as `self.log` would."""
    loggers.remember(trainer, metrics)
    if trainer.is_global_zero and loggers.logs_now(trainer):
        loggers.log_scalars(trainer, metrics, log_step(trainer))


def _pictures(trainer: Trainer, evaluations: Sequence[Evaluation], record: dict[str, Any], folder: Path | None) -> None:
    if not evaluations:
        return
    tag = record.get("tag", "audit")  # where a trainer has several audits
    loggers.log_text(trainer, f"{tag}/summary", records.summary(evaluations, record), record["step"])
    shown = picture(evaluations, f"step {record['step']}")
    if shown is not None:
        loggers.log_image(trainer, f"{tag}/images", shown[0], record["step"], shown[1], folder)
    loggers.flush(trainer)


def _line(evaluations: Sequence[Evaluation], record: dict[str, Any], folder: Path | None) -> None:
    if folder is not None:
        records.append(folder / "audit.jsonl", record | (records.describe(evaluations) if evaluations else {}))
