"""What a fit logged beside its audits: CSVLogger's numbers, and curves thinned to what can be drawn."""

import csv
import math
from pathlib import Path

from leakage_audit.report.events import Points

POINTS = 500  # a curve is drawn a few hundred pixels wide


def read_csv(folder: Path) -> Points:
    """Step and value of every number in CSVLogger's `metrics.csv`, by name; empty where there is none."""
    return _csv(folder / "metrics.csv") if (folder / "metrics.csv").is_file() else {}


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
