"""Scalars, images and text to whatever loggers the trainer has."""

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from leakage_audit.callbacks.capture.supported_trainers import is_kind
from leakage_audit.readings.metric_table import metric_of

LAYOUT_TAG = b"custom_scalars__config__"


def log_step(trainer: Trainer) -> int:
    """The x axis that `self.log` uses, so that audits line up with the training's own curves."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def remember(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Put numbers where EarlyStopping, ModelCheckpoint and the like find them, on every rank."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})


def supersede(trainer: Trainer, tag: str, metrics: Mapping[str, float]) -> None:
    """Let no number of an audit before stand for one that this audit has not: monitors see the worst there is.

    EarlyStopping and ModelCheckpoint know no unknown: they raise where a number is gone, and NaN ends the fit.

    Args:
        trainer: Whose `callback_metrics`.
        tag: What the audit's names begin with.
        metrics: What the audit has.
    """
    for name in trainer.callback_metrics.keys() - metrics.keys():
        metric = metric_of("audit" + name.removeprefix(tag)) if name.startswith(f"{tag}/") else None
        if metric is not None and metric.unknown is not None:
            remember(trainer, {name: metric.unknown})


def log_scalars(trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Hand scalars to every logger; TensorBoard is told what each is as well."""
    logger: Any  # of either Lightning
    for logger in trainer.loggers if metrics else ():
        # A logger that overrides `log_metrics` means to see the numbers itself.
        if is_kind(logger, "TensorBoardLogger") and type(logger).log_metrics.__qualname__.startswith(
            "TensorBoardLogger."
        ):
            logger.experiment.file_writer.add_summary(_described(metrics), step)
        else:
            logger.log_metrics(dict(metrics), step=step)


def _described(metrics: Mapping[str, float]) -> Summary:
    """Scalars as TensorBoard's writer makes them, with the table's descriptions beside."""
    values = []
    for name, value in metrics.items():
        metric = metric_of(name)
        about = SummaryMetadata(
            summary_description="" if metric is None else metric.description,
            plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"),
        )
        values.append(Summary.Value(tag=name, simple_value=float(value), metadata=about))
    return Summary(value=values)


def lay_out_charts(trainer: Trainer, layout: Mapping[str, Mapping[str, list]], replace: bool = False) -> None:
    """Give TensorBoard a page of charts that hold several numbers.

    Args:
        trainer: Whose loggers.
        layout: As `SummaryWriter.add_custom_scalars` takes it.
        replace: Whether to take the place of a layout that is there; TensorBoard shows the one written last.
    """
    logger: Any
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if is_kind(logger, "TensorBoardLogger"):
            logger.experiment.flush()
            files = Path(logger.log_dir).glob("events.out.tfevents.*")
            if replace or not any(_holds(path, LAYOUT_TAG) for path in files):
                logger.experiment.add_custom_scalars(layout)


def _holds(path: Path, text: bytes) -> bool:
    """Whether a file holds some bytes; mapped, since a resumed run's may be large."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return data.find(text) >= 0


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
    taken = False
    logger: Any
    for logger in trainer.loggers:
        if is_kind(logger, "TensorBoardLogger"):
            logger.experiment.add_image(name, image, step)
        elif is_kind(logger, "WandbLogger"):
            logger.log_image(key=name, images=[to_pil_image(image)], step=step, caption=[caption])
        else:
            continue
        taken = True
    if not taken and folder is not None:
        path = folder / name.rpartition("/")[2] / f"step_{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(path)


def log_text(trainer: Trainer, name: str, text: str, step: int) -> None:
    """Hand Markdown to every logger that shows text."""
    logger: Any
    for logger in trainer.loggers:
        if is_kind(logger, "TensorBoardLogger"):
            logger.experiment.add_text(name, text, step)
        elif is_kind(logger, "WandbLogger"):
            logger.log_text(key=name, columns=["text"], data=[[text]], step=step)


def flush(trainer: Trainer) -> None:
    """Let pictures appear now, not when the writer's queue is full."""
    logger: Any
    for logger in trainer.loggers:
        if is_kind(logger, "TensorBoardLogger"):
            logger.experiment.flush()
