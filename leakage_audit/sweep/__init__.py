"""`leakage-audit sweep`: what each defence costs and what it leaves, as CSV, a Pareto plot, a table and a page."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from rich.console import Console

from leakage_audit.compare.sharing import SharedWork, share_out
from leakage_audit.sweep import plot, terminal
from leakage_audit.sweep.experiment import DEFAULT, Point, Sweep
from leakage_audit.sweep.point import COLUMNS, PointRow, measure_point
from leakage_audit.sweep.recipe import Recipe
from leakage_audit.sweep.store import SweepStore

__all__ = ["COLUMNS", "DEFAULT", "PointRow", "Recipe", "Sweep", "measure_point", "run_sweep"]


class _Points(SharedWork):
    """Measures the points that its process is given, and keeps each."""

    def __init__(self, sweep: Sweep, store: SweepStore, console: Console | None) -> None:
        super().__init__(sweep.points)
        self._sweep, self._store, self._console = sweep, store, console

    def predict_step(self, batch: Point, batch_idx: int) -> None:
        if self._store.has(batch):
            return
        row = run_point(self._sweep, batch)
        self._store.put(row)
        if self._console is not None:
            done = sum(self._store.has(point) for point in self._sweep.points)
            self._console.print(f"{done}/{len(self._sweep.points)}  {terminal.sentence(row)}", highlight=False)


def run_point(sweep: Sweep, point: Point) -> PointRow:
    """One point of a sweep, whatever else there is of it."""
    with torch.random.fork_rng(devices=[]):
        return measure_point(sweep.recipe, *point, sweep.indices, sweep.attacks, sweep.seconds, sweep.draws)


def run_sweep(
    sweep: Sweep,
    output: str | Path,
    *,
    source: dict[str, Any] | None = None,
    accelerator: str = "cpu",
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str | Strategy = "auto",
    console: Console | None = None,
) -> list[PointRow] | None:
    """Measure every point, or what is left of them; write `results.csv`, `pareto.png` and `sweep.html`.

    A sweep that was broken off goes on where it stopped when it is started again with the same output directory; other
    mechanisms and strengths may be added. Points are shared out over processes and machines.

    Args:
        sweep: What to measure.
        output: Directory for the results.
        source: Where the data came from, for the records.
        accelerator: As Lightning's Trainer takes it.
        devices: Processes on this machine.
        num_nodes: Machines.
        strategy: As Lightning's Trainer takes it; `auto` is `ddp` for several processes.
        console: Where to tell of finished points and print the table; None keeps silent.

    Returns:
        The rows in the first process, None in the others.

    Raises:
        ValueError: If the directory holds another sweep, or something that is none.
    """
    store = SweepStore(output, sweep.identity, source or {})
    again = f"Broken off. The same command goes on from what is in {store.folder}."
    first = share_out(
        _Points(sweep, store, console), output, accelerator=accelerator, devices=devices, num_nodes=num_nodes,
        strategy=strategy, console=console, again=again,
    )  # fmt: skip
    if not first:
        return None
    rows = store.write_csv(sweep.points)
    plot.figure(rows, store.folder / "pareto.png")
    plot.page(rows, sweep.identity, store.folder / "sweep.html")
    if console is not None:
        console.print(terminal.table(rows))
        console.print(f"{store.csv}\n{store.folder / 'pareto.png'}\n{store.folder / 'sweep.html'}", soft_wrap=True)
    return rows


def read_record(path: str | Path) -> dict[str, Any]:
    """A point's record.

    Raises:
        ValueError: If the file is none.
    """
    found = json.loads(Path(path).read_text())
    if not isinstance(found, dict) or not {"point", "sweep", "source", "row"} <= found.keys():
        raise ValueError(f"{path} is no record of a sweep's point")
    return found
