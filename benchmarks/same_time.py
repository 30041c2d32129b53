"""Joint beside the best first-order recipe in the same time, on networks that people train.

    python benchmarks/same_time.py DATA [--networks lenet,convnet,resnet8] [--indices 1,3] [--seconds 3,10,60]

DATA is an image folder of CIFAR-10 images named by number. Seconds are CPU seconds of the process, on one thread, so
that a machine that is busy otherwise gives the same table. The networks are new, seed 10, labels not granted.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit import observe, score
from leakage_audit.attacks import CosineTV, Joint
from leakage_audit.attacks.base import Attack
from leakage_audit.data import ImageFolder
from leakage_audit.runtime import Budget


class LeNet5(nn.Module):
    """Rectifiers, max pooling, 400-120-84-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(B, 3, 32, 32)` to class scores `(B, 10)`."""
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(conv(x).relu(), 2)
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


def convnet(width: int = 16) -> nn.Module:
    """Six convolutions with batch normalisation, two poolings, in eval mode."""
    layers: list[nn.Module] = []
    widths = [3, width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]
    for i, (one, two) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(one, two, 3, padding=1), nn.BatchNorm2d(two), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i in (3, 5) else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 64, 10)).eval()


class _Block(nn.Module):
    def __init__(self, one: int, two: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(one, two, 3, stride, 1, bias=False), nn.BatchNorm2d(two)
        self.conv2, self.norm2 = nn.Conv2d(two, two, 3, 1, 1, bias=False), nn.BatchNorm2d(two)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or one != two:
            self.short = nn.Sequential(nn.Conv2d(one, two, 1, stride, bias=False), nn.BatchNorm2d(two))

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())) + self.short(x)).relu()


def resnet8() -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels with batch normalisation, global average pooling, eval mode."""
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    body = [_Block(16, 16), _Block(16, 32, 2), _Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*stem, *body, nn.Linear(64, 10)).eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lenet": LeNet5, "convnet": convnet, "resnet8": resnet8}


class CpuBudget(Budget):
    """Counts the process's CPU seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._begun = time.process_time()

    @property
    def spent(self) -> float:
        """CPU seconds since construction."""
        return time.process_time() - self._begun


def main() -> None:
    """Print one line a network, image and time limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--networks", default="lenet,convnet,resnet8")
    parser.add_argument("--indices", default="1,3")
    parser.add_argument("--seconds", default="3,10,60")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images = ImageFolder(asked.data)
    for name in asked.networks.split(","):
        for index in map(int, asked.indices.split(",")):
            image, label, _ = images.image_at(index)
            torch.manual_seed(10)
            seen = observe(NETWORKS[name](), image, label, mean=0.5)
            for seconds in map(float, asked.seconds.split(",")):
                attacks: dict[str, Attack] = {"joint": Joint(), "cosine_tv": CosineTV()}
                cells, ended = [], ""
                for what, attack in attacks.items():
                    start = time.process_time()
                    found = attack(seen, CpuBudget(seconds))
                    psnr = float(score(found.images, image).psnr[0])
                    cells.append(f"{what} {psnr:5.1f} dB in {time.process_time() - start:5.1f} s")
                    ended = found.ended if what == "joint" else ended
                print(f"{name:8} {index} {seconds:3.0f} s: {', '.join(cells)}; joint: {ended}", flush=True)


if __name__ == "__main__":
    main()
