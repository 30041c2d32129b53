"""What averaging over a batch hides: the limit and the best attack for batches of one to many images.

    python benchmarks/frontier.py OUTPUT --data DIR [--networks mlp,lenet] [--batches 1,2,4,8,16] [--seconds 600]

A cell is a network, untrained or trained, a number of images, and labels that are distinct as far as there are classes
or all of two classes. Each is a row of OUTPUT/frontier.csv, those that are there are passed over: a run that was broken
off goes on. Labels are never granted; gradients are float32; limits of time are of the process's own. The attack is
Joint, and CosineTV with the time that is left where Joint did not succeed; the better of the two counts, by its mean
PSNR. `ended_itself` tells whether its time was up, so that at least so much was got. The limit is not asked where all
images came back exactly. Networks are trained once and kept in OUTPUT; each cell has a process of its own, whose peak
of memory it is. Afterwards `benchmarks/frontier_figure.py` draws, and names the cells that are missing.
"""

import argparse
import csv
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from cells import CpuBudget, append
from everyday_networks import LeNet5
from limit_study import in_order
from torch import Tensor, nn

from leakage_audit import observe, score
from leakage_audit.attacks import CosineTV, Joint
from leakage_audit.attacks.base import Reconstruction
from leakage_audit.cli.commands import images_at
from leakage_audit.data.images import Images
from leakage_audit.measures.limit import LimitOptions, reconstruction_limit
from leakage_audit.models import build
from leakage_audit.runtime import OverBudget
from leakage_audit.scores.metrics import Scores, chance_floor
from leakage_audit.scores.severity import EXACT_PSNR, SEVERITIES, severities

STEPS, POOL, SEED = 200, 400, 10  # of Adam on batches of 32 of so many images; the attacked ones are others
SEEN = SEVERITIES.index("recognisable")


def perceptron() -> nn.Module:
    """Three fully connected layers with rectifiers, 3072-256-256-10."""
    hidden = [nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


def transformer() -> nn.Module:
    """torchvision's vision transformer, patches of 4 pixels, width 128, two blocks, its head drawn at random."""
    net = torchvision.models.VisionTransformer(32, 4, 2, 4, 128, 256, num_classes=10)
    nn.init.normal_(net.heads.head.weight, std=0.05)  # as torchvision has it, zero, nothing below has a gradient
    return net.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn2_v1": lambda: build("cnn2_v1"),
    "cnn3_v1": lambda: build("cnn3_v1"),
    "lenet": LeNet5,
    "mlp": perceptron,
    "vit": transformer,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10).train(),
}


@dataclass(frozen=True)
class Cell:
    """A place of the map."""

    network: str
    trained: int
    labels: str
    batch: int


FIELDS = (
    *Cell.__annotations__, "limit", "limit_solved", "limit_ended", "limit_seen", "attack", "best", "seen",
    "ended_itself", "ended", "chance", "limit_allowed", "limit_seconds", "allowed", "seconds", "peak_gb", "error",
)  # fmt: skip


@lru_cache(maxsize=2)
def data_at(place: str) -> Images:
    """An image folder's training images at 32 × 32."""
    images = images_at(place, 32)
    images.setup("fit")
    return images


@lru_cache(maxsize=2)
def pool(place: str) -> tuple[Tensor, Tensor]:
    """The images that networks are trained on, and their classes."""
    found = [data_at(place).image_at(i) for i in range(POOL)]
    return torch.stack([one.image for one in found]), torch.tensor([one.label for one in found])


def network_of(name: str, steps: int, place: str, kept: Path) -> nn.Module:
    """The network, in the mode in which it shares gradients; trained ones are `kept` in a folder."""
    torch.manual_seed(SEED)
    net, file = NETWORKS[name](), kept / f"{name}-{steps}.pt"
    if file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net
    mode, adam = net.training, torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(steps):
        x, y = pool(place)
        chosen = torch.randint(POOL, (32,))
        adam.zero_grad()
        F.cross_entropy(net(x[chosen] - 0.5), y[chosen]).backward()
        adam.step()
    if steps:
        torch.save(net.state_dict(), file)
    return net.train(mode)


def batch_of(cell: Cell, place: str) -> tuple[Tensor, Tensor]:
    """Images beyond the pool: of classes in turn, or of two classes in turn."""
    images = data_at(place)
    classes = images.num_classes if cell.labels == "distinct" else min(2, images.num_classes)
    wanted = [i % classes for i in range(cell.batch)]
    found: dict[int, Tensor] = {}
    index = POOL
    while len(found) < cell.batch:
        one = images.image_at(index)
        place_of = next((i for i, label in enumerate(wanted) if label == one.label and i not in found), None)
        if place_of is not None:
            found[place_of] = one.image
        index += 1
    return torch.stack([found[i] for i in range(cell.batch)]), torch.tensor(wanted)


def seen_share(scores: Scores, floor: Scores) -> float:
    """Share of the images of which one sees what they show."""
    words = severities(scores, floor)
    return sum(SEVERITIES.index(word) >= SEEN for word in words) / len(words)


def measure(cell: Cell, place: str, kept: Path, limit_seconds: float, seconds: float) -> dict[str, Any]:
    """The row of a cell."""
    x, y = batch_of(cell, place)
    seen = observe(network_of(cell.network, cell.trained, place, kept), x, y, mean=0.5)
    floor = chance_floor(pool(place)[0].mean(0), x)
    row: dict[str, Any] = {"chance": floor.psnr, "limit_allowed": limit_seconds, "allowed": seconds}
    cpu, budget = time.process_time(), CpuBudget(seconds)
    found: list[tuple[str, Reconstruction]] = []
    said: list[str] = []
    for attack in (Joint(), CosineTV(iterations=500, restarts=1)):
        if budget.left <= 0 or any(one.succeeded for _, one in found):
            break
        try:
            found.append((attack.name, attack(seen, budget)))
            said.append(f"{attack.name}: {found[-1][1].ended}")
        except OverBudget as error:
            said.append(f"{attack.name}: {error}")
    row["seconds"] = time.process_time() - cpu
    row["ended"] = "; ".join(said)
    if found:
        name, best = max(found, key=lambda pair: sum(score(pair[1].images, x).psnr))
        row |= {"attack": name, "best": in_order(best.images, x), "seen": seen_share(score(best.images, x), floor)}
        row["ended_itself"] = best.converged
    if row.get("best") and min(row["best"]) >= EXACT_PSNR:
        return row | {"limit_ended": "not asked, as all images came back exactly"}
    cpu = time.process_time()
    try:
        limit = reconstruction_limit(
            seen, x, y, options=LimitOptions(uncertainty=False), budget=CpuBudget(limit_seconds)
        )
        row |= {"limit": limit.psnr, "limit_solved": limit.solved, "limit_ended": limit.ended}
        row["limit_seen"] = seen_share(score(limit.images, x), floor)
    except OverBudget as error:
        row["limit_ended"] = str(error)
    return row | {"limit_seconds": time.process_time() - cpu}


def row_of(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """The row of a cell, measured or not, in a process of its own, whose peak of memory it is."""
    try:
        row = measure(cell, options.data, options.output, options.limit, options.attack) | {"error": ""}
    except (ValueError, TypeError, RuntimeError) as error:  # a cell that cannot be measured is a row too
        row = {"error": f"{type(error).__name__}: {error}"}
    return row | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def missing(path: Path, options: argparse.Namespace) -> Iterator[Cell]:
    """Cells that have no row yet, small batches first."""
    done = set[tuple[str, ...]]()
    if path.exists():
        done = {tuple(row[k] for k in Cell.__annotations__) for row in csv.DictReader(path.open())}
    sizes, networks = map(int, options.batches.split(",")), options.networks.split(",")
    trained = map(int, options.trained.split(","))
    for batch, name, steps, labels in product(sizes, networks, trained, options.labels.split(",")):
        cell = Cell(name, steps, labels, batch)
        alike = batch <= 2 and labels == "two classes"  # the same as distinct ones
        if not alike and tuple(map(str, asdict(cell).values())) not in done:
            yield cell


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--labels", default="distinct,two classes")
    parser.add_argument("--trained", default=f"0,{STEPS}", help="steps of training before the gradient is taken")
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds of a cell's limit")
    parser.add_argument("--attack", type=float, default=60.0, help="CPU seconds of a cell's attacks")
    parser.add_argument("--seconds", type=float, help="begin no cell after so long; the next run goes on")
    options = parser.parse_args()
    began = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "frontier.csv"
    pool(options.data)  # once, for all processes
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as worker:
        for cell in missing(path, options):
            if options.seconds is not None and time.perf_counter() - began > options.seconds:
                break
            row = worker.apply(row_of, (cell, options))
            append(path, asdict(cell) | row, FIELDS)
            told = {k: sum(row[k]) / len(row[k]) for k in ("limit", "best") if row.get(k)}
            print(cell, " ".join(f"{k} {v:.1f}" for k, v in told.items()), row.get("ended", row["error"]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
