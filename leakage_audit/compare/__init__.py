"""`leakage-audit compare`: networks × images × attacks, as a CSV file, a figure and a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.strategies import Strategy
from rich.console import Console

from leakage_audit.compare.experiment import EVERY_CLASS, LIMIT, Experiment
from leakage_audit.compare.readings import limit_shown, shown_of, status_of
from leakage_audit.compare.runner import Runner
from leakage_audit.compare.sharing import share_out
from leakage_audit.compare.store import COLUMNS, Cell, Row, Store
from leakage_audit.compare.table import TABLE_3, results_table
from leakage_audit.data import CIFAR10_CLASSES
from leakage_audit.figures import ComparisonRow, comparison_figure
from leakage_audit.scores.metrics import chance_floor

__all__ = ["COLUMNS", "EVERY_CLASS", "TABLE_3", "Cell", "Experiment", "Results", "Row", "compare"]


@dataclass(frozen=True)
class Results:
    """What a comparison found.

    Attributes:
        cells: By network, image and attack, in the table's order.
        csv: The table as a file.
        figure: The picture.
    """

    cells: Mapping[tuple[str, int, str], Cell]
    csv: Path
    figure: Path


def compare(
    experiment: Experiment,
    output: str | Path,
    *,
    accelerator: str = "cpu",
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str | Strategy = "auto",
    console: Console | None = None,
) -> Results | None:
    """Run an experiment, or what is left of it, and write `results.csv` and `figure.png`.

    A run that was broken off goes on where it stopped when it is started again with the same output directory. Pairs
    of network and image are shared out over processes and machines, which must see the same directory.

    Args:
        experiment: What to compare.
        output: Directory for the results.
        accelerator: As Lightning's Trainer takes it; the paper's networks are too small for anything but `cpu`.
        devices: Processes on this machine.
        num_nodes: Machines.
        strategy: As Lightning's Trainer takes it; `auto` is `ddp` for several processes.
        console: Where to draw progress and print the table; None keeps silent.

    Returns:
        The results in the first process, None in the others.

    Raises:
        ValueError: If the directory holds another experiment, or something that is no experiment.
    """
    store = Store(output, experiment.identity)
    runner = Runner(experiment, store, show_progress=console is not None)
    again = f"Broken off. The same command goes on from what is in {store.folder}."
    first = share_out(
        runner, output, accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy,
        console=console, again=again,
    )  # fmt: skip
    return _finish(experiment, store, console) if first else None


def _finish(experiment: Experiment, store: Store, console: Console | None) -> Results:
    """The table in order, the figure, and, if there is a console, both in words."""
    cells = {key: store.get(*key) for key in experiment.cells}
    mean_image = experiment.data.mean_image(experiment.guessed_from)
    examples = {int(index): experiment.data.image_at(int(index)) for index in experiment.indices}
    names = {index: f"{index} {experiment.data.classes[example.label]}" for index, example in examples.items()}
    floors = {index: chance_floor(mean_image, example.image) for index, example in examples.items()}
    chance = {index: floor.psnr[0] for index, floor in floors.items()}
    figure = store.folder / "figure.png"
    rows, states = [], {}
    for network, index in experiment.pairs:
        mine = {attack: cells[network, index, attack] for attack in experiment.attacks}
        states[network, index] = status_of([cell.row for cell in mine.values()], floors[index])
        shown = {attack: shown_of(cell, floors[index]) for attack, cell in mine.items() if cell.image is not None}
        if store.has(network, index, LIMIT) and (found := store.get(network, index, LIMIT)).image is not None:
            shown[LIMIT] = limit_shown(found, floors[index])
        images = {name: image for name, (image, _) in shown.items()}
        captions = {name: said for name, (_, said) in shown.items()} | {"target": f"status: {states[network, index]}"}
        rows.append(ComparisonRow(network, f"image {names[index]}", examples[index].image, images, captions))
    store.write_csv(experiment.cells, states)
    comparison_figure(rows, figure)
    if console is not None:
        cifar10 = tuple(experiment.data.classes) == CIFAR10_CLASSES and experiment.data.image_size == 32
        console.print(results_table(cells, names, chance, experiment.checkpoint is not None, cifar10, states))
        for (network, index, attack), cell in cells.items():
            if cell.image is None:
                console.print(f"{attack} does not work on {network} (image {index}): {cell.ended}")
        console.print(f"{store.csv}\n{figure}", soft_wrap=True)
    return Results(cells, store.csv, figure)
