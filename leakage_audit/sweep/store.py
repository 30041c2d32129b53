"""A sweep's output directory: one file a finished point, with everything that is needed to reproduce it alone."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from leakage_audit.compare.store import Folder, lines_of, write_whole
from leakage_audit.sweep.experiment import Point
from leakage_audit.sweep.point import COLUMNS, PointRow


class SweepStore(Folder):
    """See `Folder`.

    Args:
        folder: Made if it is missing.
        identity: What the points depend on.
        source: Where the data came from, for the records.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], source: dict[str, Any]) -> None:
        super().__init__(folder, identity)
        self.csv, self._identity, self._source = self.folder / "results.csv", identity, source
        self._points = self.folder / "points"
        self._points.mkdir(exist_ok=True)

    def path(self, point: Point) -> Path:
        """The file of a point."""
        return self._points / f"{point[0]}-{point[1]:g}.json"

    def has(self, point: Point) -> bool:
        """Whether this point is done."""
        return self.path(point).is_file()

    def put(self, row: PointRow) -> None:
        """Keep a finished point."""
        versions = {name: version(name) for name in ("leakage-audit", "torch", "lightning", "scipy")}
        record = {
            "point": {"mechanism": row.mechanism, "strength": row.strength}, "sweep": self._identity,
            "source": self._source, "versions": versions | {"python": platform.python_version()}, "row": asdict(row),
        }  # fmt: skip
        write_whole(self.path((row.mechanism, row.strength)), (json.dumps(record, indent=2) + "\n").encode())

    def get(self, point: Point) -> PointRow:
        """A finished point."""
        return PointRow(**json.loads(self.path(point).read_text())["row"])

    def write_csv(self, points: Sequence[Point]) -> list[PointRow]:
        """Write `results.csv` from the finished ones of `points`, in their order, and return them."""
        rows = [self.get(point) for point in points if self.has(point)]
        values = [["" if value is None else value for value in asdict(row).values()] for row in rows]
        write_whole(self.csv, lines_of([COLUMNS, *values]).encode())
        return rows
