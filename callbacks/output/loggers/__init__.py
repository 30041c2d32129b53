"""Scalars, images and text to whatever loggers the trainer has; one file a kind of logger, one registry of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from leakage_audit.callbacks.capture.plain_training import PlainTraining
from leakage_audit.callbacks.output.loggers import mlflow, tensorboard, wandb  # noqa: F401  they register themselves
from leakage_audit.callbacks.output.loggers.display import Display, display_of, register
from leakage_audit.readings.metric_table import OF_ATTACKS, metric_of

__all__ = ["Display", "display_of", "register"]


def log_step(trainer: Trainer) -> int:
    """The x axis that `self.log` uses, so that audits line up with the training's own curves."""
    if isinstance(trainer, PlainTraining):
        return trainer.batches_stepped
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def logs_now(trainer: Trainer) -> bool:
    """Whether `self.log` would reach the loggers at this step."""
    if isinstance(trainer, PlainTraining):
        return trainer.batches_stepped % 50 == 0  # a Trainer's default
    return trainer._logger_connector.should_update_logs


def remember(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Put numbers where EarlyStopping, ModelCheckpoint and the like find them, on every rank."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})


def supersede(trainer: Trainer, tag: str, attacks: Iterable[str], metrics: Mapping[str, float]) -> None:
    """Let no number of an audit before stand for one that this audit has not: monitors see the worst there is.

    EarlyStopping and ModelCheckpoint know no unknown: they raise where a number is gone, and NaN ends the fit.

    Args:
        trainer: Whose `callback_metrics`.
        tag: What the audit's names begin with.
        attacks: The names that had to have a number.
        metrics: What the audit has.
    """
    named = [metric.of(attack) for attack in attacks for metric in OF_ATTACKS]
    due = {tag + name.removeprefix("audit") for name in named}
    for name in (trainer.callback_metrics.keys() | due) - metrics.keys():
        metric = metric_of("audit" + name.removeprefix(tag)) if name.startswith(f"{tag}/") else None
        if metric is not None and metric.unknown is not None:
            remember(trainer, {name: metric.unknown})


def log_scalars(trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Hand scalars to every logger; TensorBoard is told what each is as well."""
    for logger in trainer.loggers if metrics else ():
        display_of(logger).scalars(metrics, step)


def lay_out_charts(trainer: Trainer, layout: Mapping[str, Mapping[str, list]], replace: bool = False) -> None:
    """Have charts that hold several numbers, where a logger has such.

    Args:
        trainer: Whose loggers.
        layout: As `SummaryWriter.add_custom_scalars` takes it.
        replace: Whether to take the place of a layout that is there; TensorBoard shows the one written last.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        display_of(logger).lay_out(layout, replace)


def log_image(trainer: Trainer, name: str, image: Tensor, step: int, caption: str, folder: Path | None) -> None:
    """Hand a picture to every logger that takes pictures, or to a PNG file if none does.

    Args:
        trainer: Whose loggers.
        name: The tag.
        image: `(3, H, W)`, uint8, or floating in [0, 1].
        step: On the loggers' axis.
        caption: Shown under the picture where the logger can.
        folder: Where the PNG goes, as `<last part of name>/step_000123.png`; None writes none.
    """
    taken = [display_of(logger).image(name, image, step, caption) for logger in trainer.loggers]
    if not any(taken) and folder is not None:
        path = folder / name.rpartition("/")[2] / f"step_{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(path)


def log_text(trainer: Trainer, name: str, text: str, step: int) -> None:
    """Hand Markdown to every logger that shows text."""
    for logger in trainer.loggers:
        display_of(logger).text(name, text, step)


def flush(trainer: Trainer) -> None:
    """Let pictures appear now, not when the writer's queue is full."""
    for logger in trainer.loggers:
        display_of(logger).flush()
