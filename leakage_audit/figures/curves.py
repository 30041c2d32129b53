"""Loss curves by epoch, read back from what a fit has logged."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
    if (folder / "metrics.csv").is_file():
        logged = _csv(folder / "metrics.csv")
    elif folder.is_dir() and any(folder.glob("events.out.tfevents.*")):
        logged = _events(folder)
    else:
        raise FileNotFoundError(f"{folder.absolute()} holds neither TensorBoard's event files nor a metrics.csv")
    by_epoch: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, epoch, value in logged:
        by_epoch[name][epoch].append(value)
    for name in (train, test):
        if name not in by_epoch:
            raise ValueError(f"{name!r} was not logged in {folder}; there are {', '.join(sorted(by_epoch)) or 'none'}")
    train_curve, test_curve = (
        ([*sorted(by_epoch[name])], [sum(v) / len(v) for _, v in sorted(by_epoch[name].items())])
        for name in (train, test)
    )
    return train_curve, test_curve


def _csv(path: Path) -> Iterator[tuple[str, int, float]]:
    """Name, epoch and value of everything that CSVLogger wrote."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in ("epoch", "step") and value and row["epoch"]:
                    yield name, int(row["epoch"]), float(value)


def _events(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Name, epoch and value of every scalar in the event files; Lightning logs the epoch at the same step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    epochs = {event.step: int(event.value) for event in (events.Scalars("epoch") if "epoch" in names else [])}
    for name in names:
        for event in events.Scalars(name):
            if name != "epoch" and event.step in epochs:
                yield name, epochs[event.step], event.value
