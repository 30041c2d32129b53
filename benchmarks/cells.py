"""What long benchmarks share: a limit of the processor's time, and a table that is written a row at a time."""

import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leakage_audit.runtime import Budget


class CpuBudget(Budget):
    """A time limit that counts the processor's time, so that a busy machine finds the same."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._began = time.process_time()

    @property
    def spent(self) -> float:
        """Seconds of the process since construction."""
        return time.process_time() - self._began

    def share(self, part: float = 1.0) -> "CpuBudget":
        """Of the processor's time, too."""
        given = CpuBudget(max(part * self.left, 1e-9))
        given._unit = self._unit
        return given


def written(value: Any) -> Any:
    """A cell of the table."""
    if isinstance(value, list | tuple):
        return " ".join(f"{x:.2f}" for x in value)
    return f"{value:.4g}" if isinstance(value, float) else value


def append(path: Path, row: dict[str, Any], fields: Sequence[str]) -> None:
    """A whole row at once, so that a run that is broken off leaves none in halves."""
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if not file.tell():
            writer.writeheader()
        writer.writerow({name: written(row.get(name, "")) for name in fields})
        file.flush()
        os.fsync(file.fileno())
