"""Loss curves by epoch, read back from what a fit has logged."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from leakage_audit.figures.event_files import event_files
from leakage_audit.figures.logs import by_epoch, read_logs

Curve = tuple[list[int], list[float]]


def read_losses(folder: str | PathLike[str], train: str = "train/loss", test: str = "val/loss") -> tuple[Curve, Curve]:
    """Training and test loss of each epoch, averaged over the steps that were logged; for `figures.loss_plot`.

    Args:
        folder: A fit's log directory, with TensorBoard's event files or CSVLogger's `metrics.csv`.
        train: Logged name of the training loss.
        test: Logged name of the test loss.

    Raises:
        FileNotFoundError: If the folder holds neither.
        ValueError: If a name was not logged.
    """
    folder = Path(folder)
    points, _ = read_logs(folder) if folder.is_dir() else ({}, [])
    if not points and not (folder / "metrics.csv").is_file() and not event_files(folder):
        raise FileNotFoundError(f"{folder.absolute()} holds neither TensorBoard's event files nor a metrics.csv")
    logged = sorted(name for name in points if name != "epoch" and by_epoch(points, name))
    for name in (train, test):
        if name not in logged:
            raise ValueError(f"{name!r} was not logged in {folder}; there are {', '.join(logged) or 'none'}")
    return _means(by_epoch(points, train)), _means(by_epoch(points, test))


def _means(found: Mapping[int, Sequence[float]]) -> Curve:
    return sorted(found), [sum(values) / len(values) for _, values in sorted(found.items())]
