"""The joint attack on networks beyond the paper's: python benchmarks/beyond.py --data DIR [--networks relu,pooling].

Gradients are float32, as a training step has them; weights are those of seed 10. CPU seconds are the process's.
"""

import argparse
import time
from collections.abc import Callable

import torch
from first_order import Residual, chain
from torch import nn

from leakage_audit import observe, score
from leakage_audit.attacks import Joint
from leakage_audit.cli.commands import images_at


def lenet() -> nn.Module:
    """The network of the first gradient attacks: three 5×5 convolutions of 12 channels with sigmoids."""
    layers: list[nn.Module] = []
    for channels, stride in ((3, 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(channels, 12, 5, stride, padding=2), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))


def pooling() -> nn.Module:
    """Two convolutions with ReLU, the first max-pooled."""
    first, second = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3)
    return nn.Sequential(
        first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.Flatten(), nn.Linear(12 * 13 * 13, 10)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lenet,
    "leaky_relu": lambda: chain(nn.LeakyReLU(0.2), 6, 3),
    "relu": lambda: chain(nn.ReLU(), 12, 8),
    "residual_tanh": lambda: Residual(nn.Tanh()),
    "residual_relu": lambda: Residual(nn.ReLU()),
    "pooling": pooling,
}


def main() -> None:
    """Print one row a network and image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--indices", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seed", type=int, default=10)
    given = parser.parse_args()
    data = images_at(given.data)
    print("network        index   psnr  wall s  cpu s  steps  residual  converged")
    for name in given.networks.split(","):
        for index in given.indices:
            image, label, _ = data.image_at(index)
            torch.manual_seed(given.seed)
            seen = observe(NETWORKS[name](), image, label, mean=0.5)
            cpu = time.process_time()
            found = Joint()(seen)
            cpu = time.process_time() - cpu
            print(
                f"{name:14} {index:5} {score(found.images, image[None]).psnr[0]:6.2f} {found.seconds:7.1f} {cpu:6.1f}"
                f" {found.details.get('steps', 0):6} {found.residual:9.2g}  {found.converged}: {found.ended}",
                flush=True,
            )


if __name__ == "__main__":
    main()
