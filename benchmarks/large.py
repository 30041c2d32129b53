"""The joint attack on what is too large for a Jacobian: torchvision networks in eval mode, images of 64 and 224 pixels.

    python benchmarks/large.py [--data DIR] [--index 3] [--rows resnet18@32,cnn3_v1@64] [--seconds 600] [--rival]

A row is a network and an image size. DIR is an image folder, whose images are brought to this size; by default the
images are drawn. `--rival` runs CosineTV's strongest recipe within the same time. Each row runs in a process of its
own, on one thread; memory is its peak.
"""

import argparse
import multiprocessing
import resource
import time

import torch
from torch import nn

from leakage_audit import observe, score
from leakage_audit.attacks import CosineTV, Joint
from leakage_audit.cli.commands import images_at
from leakage_audit.models import VARIANTS, build
from leakage_audit.runtime import Budget

ROWS = "resnet18@32,resnet18@64,mobilenet_v3_small@32,cnn3_v1@64,cnn3_v1@224"


def network(name: str, size: int) -> nn.Module:
    """A variant of the paper, or torchvision's network of this name for ten classes, in eval mode."""
    torch.manual_seed(10)
    if name in VARIANTS:
        return build(name, image_size=size)
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=10).eval()


def run(row: str, data: str, index: int, seconds: float, rival: bool) -> None:
    """Print a row."""
    torch.set_num_threads(1)
    name, size = row.split("@")
    image, label, _ = images_at(data, int(size)).image_at(index)
    seen = observe(network(name, int(size)), image, label, mean=0.5)
    cpu = time.process_time()
    attack = CosineTV() if rival else Joint()
    found = attack(seen, Budget(seconds))
    cpu = time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    psnr = score(found.images, image).psnr[0]
    print(
        f"{row:22} {attack.name:9} {psnr:6.2f} {found.seconds:7.1f} {cpu:7.1f} {memory:5.2f}  {found.ended}", flush=True
    )


def main() -> None:
    """All rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--index", type=int, default=3)
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rival", action="store_true")
    given = parser.parse_args()
    print(f"{'network@size':22} {'attack':9} {'PSNR':>6} {'wall s':>7} {'CPU s':>7} {'GB':>5}  ended")
    context = multiprocessing.get_context("spawn")
    for row in given.rows.split(","):
        process = context.Process(target=run, args=(row, given.data, given.index, given.seconds, given.rival))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
