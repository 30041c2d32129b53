"""What a fit logged beside its audits: loss, accuracy, whatever there is, as thinned curves."""

import csv
import math
from pathlib import Path

from leakage_audit.report.events import Points, event_files, scalars

POINTS = 500  # a curve is drawn a few hundred pixels wide


def read_points(folder: Path) -> Points:
    """Every logged scalar of a log directory, from its event files and CSVLogger's `metrics.csv`."""
    found = scalars(event_files(folder))
    if (folder / "metrics.csv").is_file():
        for name, points in _csv(folder / "metrics.csv").items():
            found.setdefault(name, points)
    return found


def _csv(path: Path) -> Points:
    found: Points = {}
    with path.open(newline="", encoding="utf-8") as file:
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


def thin(points: list[tuple[int, float]], limit: int = POINTS) -> list[tuple[int, float]]:
    """At most about `limit` points that keep every peak: the lowest and the highest of each stretch of steps.

    Args:
        points: Step and value in any order; where a step has several, the last counts. Values that are not finite are
            left out.
        limit: How many to keep.
    """
    kept = sorted((step, value) for step, value in dict(points).items() if math.isfinite(value))
    if len(kept) <= limit:
        return kept
    width = -(-2 * len(kept) // limit)
    thinned = []
    for start in range(0, len(kept), width):
        stretch = kept[start : start + width]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        thinned += sorted(ends)
    return sorted({kept[0], *thinned, kept[-1]})
