"""Does the limit predict the best attack? Random networks, trained and not, in batches, under noise.

    python benchmarks/limit_study.py OUTPUT [--data DIR] [--cases 600] [--shard 0/1] [--only 17]

Draws 120 networks of five families (tanh, ReLU, pooling, batch normalisation, residual), half of them trained for 200
steps, and shares a gradient of each in rounds: case 120 r + i is network i in round r, its batch size and noise drawn.
Each case is one row of OUTPUT/limit_study.csv, reproducible alone (`--only`); those that are there are passed over.
Afterwards `benchmarks/limit_study_figure.py` correlates and draws. DIR is an image folder; drawn pictures by default.

The noise is Gaussian, a share of each tensor's root mean square, and known to attackers, as labels are. Limit and
attacks are those of an audit (`noisy_limit`, `Joint`); CosineTV runs where Joint did not succeed. Lists in a row have
an entry for each image of the batch.
"""

import argparse
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from architectures import FAMILIES, draw_network
from cells import CpuBudget, append
from torch import Tensor, nn

from leakage_audit import Observation, observe, score
from leakage_audit.attacks import CosineTV, Joint
from leakage_audit.cli.commands import images_at
from leakage_audit.measures.noisy_limit import noisy_limit
from leakage_audit.runtime import OutOfTime
from leakage_audit.scores.metrics import chance_floor

NETWORKS, TRAINED_STEPS = 120, 200
# Height of the images, and share of the cases, by batch size: a case should take seconds.
SIZES = {1: 10, 2: 8, 4: 8, 8: 8, 16: 8}
SHARES = {1: 0.3, 2: 0.25, 4: 0.2, 8: 0.15, 16: 0.1}
NOISES = (0.0, 1e-3, 1e-2, 1e-1)
SECONDS = {"limit": 20.0, "joint": 12.0, "cosine": 6.0}  # of the process's own time, whatever else runs
ITERATIONS = 500  # of CosineTV
POOL = 500  # images to train on and to attack


@dataclass(frozen=True)
class Case:
    """One network that shares one gradient."""

    case: int
    network: int
    family: str
    trained: int
    batch: int
    size: int
    noise: float

    @classmethod
    def of(cls, number: int) -> "Case":
        """Case `number`, the same whoever runs it."""
        turn, network = divmod(number, NETWORKS)
        random = np.random.default_rng([turn, network])
        batch = int(random.choice(list(SHARES), p=list(SHARES.values())))
        noise = float(random.choice(NOISES))
        trained = TRAINED_STEPS * (network // len(FAMILIES) % 2)
        return cls(number, network, FAMILIES[network % len(FAMILIES)], trained, batch, SIZES[batch], noise)


@lru_cache(maxsize=8)
def pictures(data: str, size: int) -> tuple[Tensor, Tensor]:
    """The first images `(POOL, 3, size, size)` in [0, 1] and their classes."""
    images = images_at(data, size)
    images.setup("fit")
    found = [images.image_at(i) for i in range(POOL)]
    return torch.stack([one.image for one in found]), torch.tensor([one.label for one in found])


@lru_cache(maxsize=256)
def network_of(network: int, trained: int, size: int, data: str) -> nn.Module:
    """The network, in the mode in which it shares gradients."""
    model = draw_network(network, size)
    x, y = pictures(data, size)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(network)
    model.train()
    for _ in range(trained):
        chosen = torch.randint(POOL, (32,), generator=random)
        adam.zero_grad()
        F.cross_entropy(model(x[chosen] - 0.5), y[chosen]).backward()
        adam.step()
    return model.train(draw_mode(network))


def draw_mode(network: int) -> bool:
    """Whether batch normalisation takes the batch's statistics (training mode): every other network's does."""
    return network // (2 * len(FAMILIES)) % 2 == 0


def share(case: Case, data: str) -> tuple[Observation, Tensor, Tensor]:
    """What leaks, the true images and their classes."""
    x, y = pictures(data, case.size)
    random = torch.Generator().manual_seed(1000 + case.case)
    chosen = torch.randperm(POOL, generator=random)[: case.batch]
    model = network_of(case.network, case.trained, case.size, data)
    seen = observe(model, x[chosen], y[chosen], mean=0.5, grant_labels=True)
    std = {name: case.noise * g.square().mean().sqrt().expand_as(g) for name, g in seen.gradients.items()}
    noisy = {name: g + std[name] * torch.randn(g.shape, generator=random) for name, g in seen.gradients.items()}
    return replace(seen, gradients=noisy, noise=std if case.noise else {}), x[chosen], y[chosen]


def in_order(images: Tensor, truth: Tensor) -> list[float]:
    """PSNR of the reconstruction of each true image."""
    found = score(images, truth)
    return [psnr for _, psnr in sorted(zip(found.order, found.psnr, strict=True))]


def measure(case: Case, data: str) -> dict[str, Any]:
    """The row of a case."""
    seen, x, y = share(case, data)
    row: dict[str, Any] = {"parameters": sum(g.numel() for g in seen.gradients.values())}
    row["chance"] = chance_floor(pictures(data, case.size)[0].mean(0), x).psnr
    limit = noisy_limit(seen, x, y, budget=CpuBudget(SECONDS["limit"]))
    row |= {"limit": limit.psnr, "limit_solved": limit.solved, "limit_ended": limit.ended}
    row |= {"granted": " ".join(limit.granted), "limit_seconds": limit.seconds, "unknowns": limit.unknowns}
    row |= {"joint": "", "joint_converged": False, "succeeded": False, "cosine": "", "cosine_ended": ""}
    try:
        joint = Joint()(seen, CpuBudget(SECONDS["joint"]))
    except OutOfTime as error:  # before it had an image
        row["joint_ended"] = str(error)
    else:
        row |= {"joint": in_order(joint.images, x), "joint_converged": joint.converged, "joint_ended": joint.ended}
        row |= {"joint_seconds": joint.seconds, "separated_by": joint.details.get("separated_by") or ""}
        row |= {"succeeded": joint.succeeded, "misfit": joint.misfit}
    if not row["succeeded"]:
        cosine = CosineTV(iterations=ITERATIONS, restarts=1)(seen, CpuBudget(SECONDS["cosine"]))
        row |= {"cosine": in_order(cosine.images, x), "cosine_ended": cosine.ended, "cosine_seconds": cosine.seconds}
        row["succeeded"] |= cosine.succeeded
    return row


def missing(path: Path, cases: range) -> Iterator[int]:
    """Numbers of the cases that have no row yet, of each round the small batches first."""
    done = {int(row["case"]) for row in csv.DictReader(path.open())} if path.exists() else set()
    left = [number for number in cases if number not in done]
    yield from sorted(left, key=lambda number: (number // NETWORKS, Case.of(number).batch, number))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--shard", default="0/1", help="which part of how many, each with a file of its own")
    parser.add_argument("--seconds", type=float, help="begin no case after so long; the next run goes on")
    parser.add_argument("--only", type=int, help="this case alone, printed and not written")
    options = parser.parse_args()
    if options.only is not None:
        print(asdict(Case.of(options.only)) | measure(Case.of(options.only), options.data))
        return
    began = time.perf_counter()
    part, parts = map(int, options.shard.split("/"))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / ("limit_study.csv" if parts == 1 else f"limit_study_{part}.csv")
    for number in missing(path, range(part, options.cases, parts)):
        if options.seconds is not None and time.perf_counter() - began > options.seconds:
            break
        start, case = time.process_time(), Case.of(number)
        try:
            row = asdict(case) | measure(case, options.data) | {"error": ""}
        except (ValueError, TypeError, RuntimeError) as error:  # a case that cannot be run is a row too
            row = asdict(case) | {"error": f"{type(error).__name__}: {error}"}
        row["cpu_seconds"] = time.process_time() - start
        append(path, row, FIELDS)
        mean = {k: np.mean(row[k]) if row.get(k) else math.nan for k in ("limit", "joint", "cosine")}
        print(case, " ".join(f"{k} {v:.1f}" for k, v in mean.items()), f"{row['cpu_seconds']:.1f} s", flush=True)


FIELDS = (
    *Case.__annotations__, "parameters", "chance", "limit", "limit_solved", "limit_ended", "granted",
    "limit_seconds", "unknowns", "joint", "joint_converged", "joint_ended", "joint_seconds", "separated_by",
    "succeeded", "misfit", "cosine", "cosine_ended", "cosine_seconds", "cpu_seconds", "error",
)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
