"""Which number predicts what comes back? Random small networks, measured and attacked.

    python benchmarks/study.py OUTPUT [--architectures 60] [--size 12] [--seed 0]

Draws tanh, sigmoid and softplus networks of one to three convolutions, attacks three synthetic pictures on each with
R-GAP, Hybrid and Joint, and writes OUTPUT/study.csv, one line for each network and picture; a study that was broken off
goes on where it stopped. Then prints Spearman's rank correlation of each measure with each attack's PSNR, over
networks, with a 95 % interval by bootstrap over networks, and draws OUTPUT/study.png.
"""

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from leakage_audit import attacks, observe, score, security_metric
from leakage_audit.data.synthetic import SCENES, draw
from leakage_audit.measures.joint_rank import counted_joint_rank
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.runtime import Budget

MEASURES = ("c", "first_deficiency", "joint_deficiency", "condition", "parameters")
ATTACKS = ("rgap", "hybrid", "joint")
FIELDS = ("architecture", "picture", *MEASURES, *ATTACKS, "joint_rank_found", "floor", "layers")
Layer = tuple[int, int, int, int, int, int]
LARGEST = 1000  # unknowns of a layer, to keep a run short


def architectures(size: int, seed: int) -> Iterator[list[Layer]]:
    """Convolutions (channels in, out, kernel, stride, padding, 1 with a bias), without end."""
    random = np.random.default_rng(seed)
    while True:
        shape, found = (3, size), list[Layer]()
        for _ in range(random.integers(1, 4)):
            out, kernel = int(random.integers(1, 13)), int(random.integers(2, 6))
            stride, padding = int(random.choice([1, 1, 2])), int(random.choice([0, 0, 1, 2]))
            wide = (shape[1] + 2 * padding - kernel) // stride + 1
            if wide < 3 or padding >= kernel:
                break
            found.append((shape[0], out, kernel, stride, padding, int(random.integers(2))))
            shape = (out, wide)
            if out * wide**2 > LARGEST:
                break
        if found and shape[0] * shape[1] ** 2 <= LARGEST:
            yield found


def build(layers: list[Layer], size: int, seed: int) -> nn.Sequential:
    """The network, its activation drawn too."""
    torch.manual_seed(seed)
    activation = (nn.Tanh, nn.Sigmoid, nn.Softplus)[seed % 3]
    parts: list[nn.Module] = []
    for c_in, c_out, kernel, stride, padding, bias in layers:
        parts += [nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=bool(bias)), activation()]
        size = (size + 2 * padding - kernel) // stride + 1
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(c_out * size**2, 10))


def measure(network: nn.Module, image: Tensor, label: int) -> dict[str, float]:
    """All measures of one step, and the PSNR of each attack."""
    seen = observe(network, image, label, mean=0.5)
    security = security_metric(seen)
    chain = [layer for layer in read_chain(network, seen.input_shape) if isinstance(layer, SpatialLayer)]
    found: dict[str, float] = {
        "c": security.c,
        "first_deficiency": security.layers[0].deficiency,
        "joint_deficiency": counted_joint_rank(chain) - prod(seen.input_shape),
        "condition": min(layer.condition or 0.0 for layer in security.layers),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    for attack in (attacks.RGAP(), attacks.Hybrid(scale=0.03), attacks.Joint()):
        result = attack(seen, Budget(60))
        found[attack.name] = score(result.images, image[None]).psnr[0]
    return found | {"joint_rank_found": result.details.get("joint_deficiency", "")}


def run(output: Path, count: int, size: int, seed: int) -> list[dict[str, str]]:
    """All rows, those already in the file and those that are missing."""
    path = output / "study.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(int(row["architecture"]), int(row["picture"])) for row in rows}
    pictures = torch.cat([draw(name, [0], size) / 255 for name in list(SCENES)[::4]])
    floor = score(pictures.mean(0, keepdim=True).expand_as(pictures).contiguous(), pictures).psnr
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not rows:
            writer.writeheader()
        for i, layers in zip(range(count), architectures(size, seed), strict=False):
            for k, image in enumerate(pictures):
                if (i, k) in done:
                    continue
                start = time.process_time()
                row = {"architecture": i, "picture": k, "floor": floor[k], "layers": layers}
                row |= measure(build(layers, size, i), image, k)
                writer.writerow(row)
                file.flush()
                print(f"{i} {k}: {time.process_time() - start:.1f} s, {row}", flush=True)
    return list(csv.DictReader(path.open()))


def by_architecture(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Each column averaged over the pictures of a network."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["architecture"]].append([float(row[name]) for name in (*MEASURES, *ATTACKS)])
    means = np.array([np.mean(group, axis=0) for group in groups.values()])
    return dict(zip((*MEASURES, *ATTACKS), means.T, strict=True))


def correlations(table: dict[str, np.ndarray], keep: np.ndarray, seed: int = 0) -> None:
    """Print Spearman's rank correlations with bootstrap intervals over the networks in `keep`."""
    random = np.random.default_rng(seed)
    print(f"{keep.sum()} networks\n{'':18}" + "".join(f"{name:>24}" for name in ATTACKS))
    for name in MEASURES:
        cells = []
        for attack in ATTACKS:
            x, y = table[name][keep], table[attack][keep]
            draws = (random.integers(0, len(x), len(x)) for _ in range(2000))
            resampled = [spearmanr(x[k], y[k])[0] for k in draws if np.ptp(x[k]) > 0 and np.ptp(y[k]) > 0]
            low, high = np.nanpercentile(resampled, [2.5, 97.5]) if resampled else (np.nan, np.nan)
            cells.append(f"{spearmanr(x, y)[0] if np.ptp(x) > 0 else np.nan:+.2f} [{low:+.2f}, {high:+.2f}]")
        print(f"{name:18}" + "".join(f"{cell:>24}" for cell in cells))


def plot(table: dict[str, np.ndarray], path: Path) -> None:
    """PSNR of each attack against each deficiency."""
    import matplotlib.pyplot as plt

    titles = {"c": "c(M)", "joint_deficiency": "joint deficiency", "condition": "condition of the worst layer"}
    figure, axes = plt.subplots(len(ATTACKS), len(titles), figsize=(10, 8), sharey="row", sharex="col")
    for row, attack in zip(axes, ATTACKS, strict=True):
        row[0].set_ylabel(f"{attack}, PSNR in dB (0 … 100)")
        for axis, name in zip(row, titles, strict=True):
            axis.scatter(table[name], np.clip(table[attack], 0, 100), s=14, alpha=0.7)
            axis.grid(alpha=0.3)
    for axis, (name, title) in zip(axes[-1], titles.items(), strict=True):
        axis.set_xlabel(title)
        if name == "condition":
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=10)
            axis.set_xlim(right=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run, correlate, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--architectures", type=int, default=60)
    parser.add_argument("--size", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    table = by_architecture(run(options.output, options.architectures, options.size, options.seed))
    print("\nAll:")
    correlations(table, np.full(len(table["c"]), True))
    print("\nThose with c(M) < 0:")
    correlations(table, table["c"] < 0)
    plot(table, options.output / "study.png")


if __name__ == "__main__":
    main()
