"""The limit beside what attacks reach, image by image.

    python benchmarks/limit.py --data DIR [--indices 1 3] [--networks cnn2_v2,cnn3_v1] [--attacks joint,rgap,hybrid]

A row is a network and an image; numbers are PSNR in dB, CPU seconds of the process on one thread in parentheses.
Behind each attack stands `c` if it converged and `s` if it succeeded, `!` if it is more than a decibel above a limit
that was solved to the end. Hybrid makes a fiftieth of its
iterations. Gradients are float32, as a training step has them; weights are those of seed 10.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from leakage_audit import attacks, observe, score
from leakage_audit.attacks import Hybrid
from leakage_audit.attacks.base import Attack
from leakage_audit.cli.commands import images_at
from leakage_audit.measures.limit import LimitOptions, reconstruction_limit
from leakage_audit.models import build

NETWORKS = "cnn2_v2,cnn3_v1,cnn3_v2,cnn4_v1"
ALLOWED = 1.0  # dB that an attack may be above a limit, which is of first order


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns and its CPU seconds."""
    cpu = time.process_time()
    found = work()
    return found, time.process_time() - cpu


def attack_of(name: str) -> Attack:
    """By name, Hybrid with a fiftieth of its iterations."""
    return Hybrid(scale=0.02) if name == "hybrid" else attacks.build(name)


def main() -> None:
    """Print a row a network and image, then the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--indices", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--attacks", default="joint")
    parser.add_argument("--seed", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, names = images_at(given.data), given.attacks.split(",")
    differences: list[tuple[float, str]] = []
    print(f"{'network':8} {'index':>6} {'limit':>14}" + "".join(f"{name:>20}" for name in names))
    for index in given.indices:
        image, label, _ = data.image_at(index)
        for network in given.networks.split(","):
            torch.manual_seed(given.seed)
            seen = observe(build(network), image, label, mean=0.5)
            labels, options = torch.tensor([label]), LimitOptions(uncertainty=False)
            known, cpu = timed(partial(reconstruction_limit, seen, image[None], labels, options=options))
            limit = known.psnr[0]
            row = f"{network:8} {index:6} {'' if known.solved else '≥'}{limit:6.2f} ({cpu:5.1f})"
            for name in names:
                try:
                    found, cpu = timed(partial(attack_of(name), seen))
                except ValueError as refusal:
                    row += f"{str(refusal)[:18]:>20}"
                    continue
                psnr = score(found.images, image[None]).psnr[0]
                marks = "c" * found.converged + "s" * found.succeeded + "!" * (known.solved and psnr > limit + ALLOWED)
                row += f" {psnr:7.2f} {marks:3} ({cpu:5.1f})"
                differences.append((psnr - limit, f"{name} on {network}, image {index}"))
            print(row, flush=True)
    for name in names:
        own = sorted(pair for pair in differences if pair[1].startswith(f"{name} on"))
        if own:
            print(f"{own[0][1]}: {own[0][0]:+.2f} dB; {own[-1][1]}: {own[-1][0]:+.2f} dB of the limit")


if __name__ == "__main__":
    main()
