"""First-order attacks: PSNR and time per iteration, and beside them, where it is installed, the breaching framework.

    python benchmarks/first_order.py DATA [--networks cnn2_v2,cnn3_v1] [--indices 3] [--iterations 1000]

DATA is an image folder of CIFAR-10 images named by number. Breaching (`pip install breaching`) is timed on the same
gradients, with its own `modern` recipe. Times are CPU seconds of the process, on one thread.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from leakage_audit import Observation, observe, score
from leakage_audit.attacks import CosineTV
from leakage_audit.data import ImageFolder
from leakage_audit.models import VARIANTS, build


class Residual(nn.Module):
    """Three convolutions of 16 channels, the second with a skip connection."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.conv3, self.fc = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.Linear(16 * 16 * 16, 10)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(B, 3, 32, 32)` to class scores `(B, 10)`."""
        h = self.activation(self.conv1(x))
        h = h + self.activation(self.conv2(h))
        return self.fc(self.activation(self.conv3(h)).flatten(1))


def chain(activation: nn.Module, *channels: int) -> nn.Sequential:
    """Two convolutions, the second of stride 2."""
    first, second = nn.Conv2d(3, channels[0], 3), nn.Conv2d(channels[0], channels[1], 4, 2)
    return nn.Sequential(first, activation, second, activation, nn.Flatten(), nn.Linear(channels[1] * 196, 10))


def resnet18() -> nn.Module:
    """torchvision's, in eval mode."""
    import torchvision

    return torchvision.models.resnet18(num_classes=10).eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: (lambda name=name: build(name)) for name in VARIANTS},
    "relu": lambda: chain(nn.ReLU(), 12, 8),
    "leaky_relu": lambda: chain(nn.LeakyReLU(0.2), 6, 3),
    "residual_tanh": lambda: Residual(nn.Tanh()),
    "residual_relu": lambda: Residual(nn.ReLU()),
    "resnet18": resnet18,
}


def peer(seen: Observation, labels: Tensor, iterations: int) -> Tensor:
    """What breaching's `modern` recipe makes of the same gradients, as an image."""
    import breaching
    from omegaconf import OmegaConf

    settings = breaching.get_attack_config("modern", [f"optim.max_iterations={iterations}"])
    setup = {"dtype": torch.float32, "device": torch.device("cpu")}
    attacker = breaching.attacks.prepare_attack(seen.network, nn.CrossEntropyLoss(), settings, setup)
    about = {"shape": list(seen.input_shape), "modality": "vision", "classes": 10}
    about |= {"mean": list(seen.mean) * 3, "std": list(seen.std) * 3}
    weights, buffers = list(seen.network.parameters()), list(seen.network.buffers())
    payload = {"parameters": weights, "buffers": buffers, "metadata": OmegaConf.create(about)}
    own = {"num_data_points": 1, "labels": labels, "local_hyperparams": None}
    shared = {"gradients": list(seen.gradients.values()), "buffers": None, "metadata": own}
    found, _ = attacker.reconstruct([payload], [shared], {}, dryrun=False)
    return seen.to_image(found["data"])


def clocked(work: Callable[[], Tensor], truth: Tensor, iterations: int) -> str:
    """PSNR and CPU time an iteration."""
    start = time.process_time()
    images = work()
    seconds = time.process_time() - start
    return f"{score(images, truth).psnr[0]:5.1f} dB {1e3 * seconds / iterations:7.2f} ms/iteration"


def main() -> None:
    """Print one line a network and image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--networks", default="cnn2_v2,cnn3_v1,cnn4_v1,relu,residual_tanh,residual_relu")
    parser.add_argument("--indices", default="1,3")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--presets", default="modern,original,paper")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images = ImageFolder(asked.data)
    for name in asked.networks.split(","):
        for index in map(int, asked.indices.split(",")):
            torch.manual_seed(10)
            image, label, _ = images.image_at(index)
            seen = observe(NETWORKS[name](), image, label, cross_entropy, mean=0.5)
            runs = {p: partial(CosineTV(p, asked.iterations, restarts=1), seen) for p in asked.presets.split(",")}
            lines = {p: clocked(lambda run=run: run().images, image, asked.iterations) for p, run in runs.items()}
            if importlib.util.find_spec("breaching"):
                theirs = partial(peer, seen, torch.tensor([label]), asked.iterations)
                lines["breaching modern"] = clocked(theirs, image, asked.iterations)
            for preset, line in lines.items():
                print(f"{name:14} image {index}  {preset:17} {line}", flush=True)


if __name__ == "__main__":
    main()
