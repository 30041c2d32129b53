"""What a fit's loggers have kept: every scalar by name, from TensorBoard's event files and CSVLogger's metrics.csv."""

import csv
from pathlib import Path

from leakage_audit.figures.event_files import Points, event_files, scan


def read_logs(folder: Path, tag: str = "") -> tuple[Points, list[int]]:
    """Step and value of every number that was logged, by name, and the steps of which there is a picture.

    What cannot be read, such as a row that was cut off, is left out. Where both loggers have a name, the event files'
    numbers are taken.

    Args:
        folder: A fit's log directory.
        tag: Name of the pictures that are looked for in the event files.
    """
    points, pictured = scan(event_files(folder), tag)
    path = folder / "metrics.csv"
    return (_csv(path) if path.is_file() else {}) | points, pictured


def by_epoch(points: Points, name: str) -> dict[int, list[float]]:
    """The values of a name that were logged in each epoch; Lightning logs `epoch` at the same steps.

    Args:
        points: As `read_logs` finds them.
        name: Of a scalar.
    """
    epochs = {step: int(value) for step, value in points.get("epoch", ())}
    found: dict[int, list[float]] = {}
    for step, value in points.get(name, ()):
        if step in epochs:
            found.setdefault(epochs[step], []).append(value)
    return found


def _csv(path: Path) -> Points:
    found: Points = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            for name, text in row.items():
                value = _number(text)
                if step is not None and value is not None and name not in ("step", None):
                    found.setdefault(name, []).append((int(step), value))
    return found


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except (TypeError, ValueError):  # a row that was cut off
        return None
