"""How Joint's time and memory grow with the images of a batch and with their pixels, with a Jacobian and without one.

    python benchmarks/growth.py OUTPUT --data DIR [--network cnn3_v1] [--seconds 600] [--figure docs/growth.png]

The same equations are solved in both ways, which `JointOptions.largest_work` decides; the batches are of the first
image of each class, labels not granted, gradients float32. Each case has a process of its own, whose peak of memory it
is (what stood there before the attack is taken off), and a row of OUTPUT/growth.csv; those that are there are passed
over. The figure is drawn from what is there, hollow where the time was up.
"""

import argparse
import csv
import multiprocessing
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from batches import first_of_classes
from cells import CpuBudget, append

from leakage_audit import observe
from leakage_audit.attacks import Joint
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.cli.commands import images_at
from leakage_audit.models import build
from leakage_audit.runtime import OverBudget
from leakage_audit.scores.metrics import score

WAYS = {"dense": 1e13, "free": 1.0}  # `largest_work`, by what is forced
BATCHES, PIXELS = (1, 2, 4, 8, 16), (16, 32, 48, 64, 96)
MEMORY_GB, SEED = 8.0, 10


@dataclass(frozen=True)
class Case:
    """What is solved, and how."""

    network: str
    pixels: int
    batch: int
    way: str


FIELDS = (
    *Case.__annotations__,
    "psnr",
    "rank",
    "equations",
    "unknowns",
    "steps",
    "converged",
    "ended",
    "seconds",
    "gb",
)


def peak_gb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(case: Case, place: str, seconds: float) -> dict[str, Any]:
    """The row of a case; to be called in a new process."""
    torch.set_num_threads(1)
    images = images_at(place, case.pixels)
    images.setup("fit")
    count = -(-case.batch // images.num_classes)
    of_class = first_of_classes(images, count)
    chosen = [images.image_at(of_class[i % len(of_class)][i // len(of_class)]) for i in range(case.batch)]
    x, y = torch.stack([one.image for one in chosen]), torch.tensor([one.label for one in chosen])
    torch.manual_seed(SEED)
    seen = observe(build(case.network, images.num_classes, case.pixels), x, y, mean=0.5)
    attack = Joint(max_memory_gb=MEMORY_GB, options=JointOptions(largest_work=WAYS[case.way]))
    before, cpu = peak_gb(), time.process_time()
    row: dict[str, Any] = asdict(case)
    try:
        found = attack(seen, CpuBudget(seconds))
        row |= {name: found.details.get(name) for name in ("rank", "equations", "unknowns", "steps")}
        row |= {"psnr": score(found.images, x).psnr, "converged": found.converged, "ended": found.ended}
    except OverBudget as error:
        row["ended"] = str(error)
    return row | {"seconds": time.process_time() - cpu, "gb": peak_gb() - before}


def missing(path: Path, network: str) -> Iterator[Case]:
    """Cases that have no row yet, small ones first."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {tuple(row[k] for k in Case.__annotations__) for row in rows}
    sizes = [(32, batch) for batch in BATCHES] + [(pixels, 1) for pixels in PIXELS if pixels != 32]
    for pixels, batch in sorted(sizes, key=lambda size: size[0] ** 2 * size[1]):
        for way in WAYS:
            case = Case(network, pixels, batch, way)
            if tuple(map(str, asdict(case).values())) not in done:
                yield case


def draw(path: Path, figure_path: Path) -> None:
    """Seconds, memory and PSNR against images and against pixels."""
    from matplotlib.figure import Figure

    rows = [row for row in csv.DictReader(path.open()) if row["psnr"]]
    figure = Figure(figsize=(7.5, 7.0), layout="constrained")
    axes = figure.subplots(3, 2, sharey="row", sharex="col")
    columns = (("batch", "images of 32 × 32 pixels", BATCHES), ("pixels", "side of one image in pixels", PIXELS))
    for column, (name, title, ticks) in enumerate(columns):
        for way, colour, words in (("dense", "#b02a55", "with a Jacobian"), ("free", "#1f5fa8", "without")):
            fixed = ("pixels", "32") if name == "batch" else ("batch", "1")
            own = [r for r in rows if r[fixed[0]] == fixed[1] and r["way"] == way]
            if way == "dense":  # a Jacobian that does not fit is not formed, and an iteration that ends tells its rank
                own = [r for r in own if r["rank"] or r["converged"] != "True"]
            own = sorted(own, key=lambda r: int(r[name]))
            x = [int(r[name]) for r in own]
            values = {
                "CPU seconds": [float(r["seconds"]) for r in own],
                "memory, GB": [max(float(r["gb"]), 0.01) for r in own],
                "PSNR, dB (mean)": [sum(map(float, r["psnr"].split())) / len(r["psnr"].split()) for r in own],
            }
            for ax, (unit, y) in zip(axes[:, column], values.items(), strict=True):
                ax.plot(x, y, color=colour, label=words, linewidth=1.2)
                for a, b, r in zip(x, y, own, strict=True):
                    ax.plot(a, b, "o", color=colour, markersize=5, mfc=colour if r["converged"] == "True" else "white")
                ax.set(xscale="log", yscale="linear" if "PSNR" in unit else "log")
                ax.set_ylabel(unit if not column else "")
                ax.grid(alpha=0.3)
        axes[2, column].set_xticks(ticks, [str(tick) for tick in ticks])
        axes[2, column].minorticks_off()
        axes[2, column].set_xlabel(title)
    axes[0, 0].legend(frameon=False)
    figure.savefig(figure_path, dpi=160)


def main() -> None:
    """Measure what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--network", default="cnn3_v1")
    parser.add_argument("--attack", type=float, default=120.0, help="CPU seconds of an attack")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so long")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path, began = options.output / "growth.csv", time.perf_counter()
    alone = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with ProcessPoolExecutor(**alone) as pool:
        for case in missing(path, options.network):
            if time.perf_counter() - began > options.seconds:
                break
            row = pool.submit(measure, case, options.data, options.attack).result()
            append(path, row, FIELDS)
            print(case, *(row.get(k) for k in ("psnr", "seconds", "gb", "ended")), flush=True)
    if options.figure:
        draw(path, options.figure)


if __name__ == "__main__":
    main()
