"""Random small classifiers of five families, each determined by its number."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

Random = np.random.Generator


def _spatial(module: nn.Module, size: int) -> tuple[int, ...]:
    """Shape of what `module` makes of an image."""
    with torch.no_grad():
        return tuple(module.eval()(torch.zeros(1, 3, size, size)).shape[1:])


def _with_head(parts: list[nn.Module], size: int, hidden: int = 0) -> nn.Sequential:
    """The parts, flattened, and fully connected layers."""
    features = int(np.prod(_spatial(nn.Sequential(*parts), size)))
    head = [nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 10)] if hidden else [nn.Linear(features, 10)]
    return nn.Sequential(*parts, nn.Flatten(), *head)


def _convolutions(random: Random, activation: Callable[[], nn.Module], most: int = 3) -> list[nn.Module]:
    """One to `most` convolutions; at most the second has a stride, so that 8 × 8 images pass."""
    channels, parts = 3, list[nn.Module]()
    for i in range(random.integers(1, most + 1)):
        out, kernel = int(random.integers(2, 13)), int(random.integers(2, 5))
        stride = 2 if i == 1 else 1
        parts += [nn.Conv2d(channels, out, kernel, stride, int(random.integers(2)), bias=bool(random.integers(2)))]
        parts += [activation()]
        channels = out
    return parts


def tanh(random: Random, size: int) -> nn.Module:
    """Convolutions with tanh or sigmoid."""
    return _with_head(_convolutions(random, (nn.Tanh, nn.Tanh, nn.Sigmoid)[random.integers(3)]), size)


def relu(random: Random, size: int) -> nn.Module:
    """Convolutions with ReLU or leaky ReLU."""
    return _with_head(_convolutions(random, (nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(0.2))[random.integers(3)]), size)


def pooling(random: Random, size: int) -> nn.Module:
    """Convolutions, each pooled, in LeNet's manner with or without a hidden fully connected layer."""
    activation = (nn.ReLU, nn.Tanh)[random.integers(2)]
    pool = (nn.MaxPool2d, nn.AvgPool2d)[random.integers(2)]
    channels, parts = 3, list[nn.Module]()
    for _ in range(random.integers(1, 3)):
        out = int(random.integers(4, 17))
        parts += [nn.Conv2d(channels, out, int(random.choice([3, 5])), padding="same"), activation(), pool(2)]
        channels = out
    return _with_head(parts, size, int(random.choice([0, 24])))


def batch_normalisation(random: Random, size: int) -> nn.Module:
    """Convolution, batch normalisation, ReLU or tanh, one to two times."""
    activation = (nn.ReLU, nn.Tanh)[random.integers(2)]
    channels, parts = 3, list[nn.Module]()
    for i in range(random.integers(1, 3)):
        out = int(random.integers(3, 13))
        parts += [nn.Conv2d(channels, out, 3, 1 + i, 1, bias=False), nn.BatchNorm2d(out), activation()]
        channels = out
    return _with_head(parts, size)


class Residual(nn.Module):
    """x + f(x), f two convolutions."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), activation(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return self.activation(x + self.body(x))


def residual(random: Random, size: int) -> nn.Module:
    """A convolution, one or two residual blocks, with or without pooling before the last layer."""
    activation, out = (nn.ReLU, nn.Tanh)[random.integers(2)], int(random.integers(3, 11))
    parts: list[nn.Module] = [nn.Conv2d(3, out, 3, int(random.integers(1, 3)), 1), activation()]
    parts += [Residual(out, activation) for _ in range(random.integers(1, 3))]
    parts += [nn.AdaptiveAvgPool2d(2)] if random.integers(3) == 0 else []
    return _with_head(parts, size)


BUILDERS = {
    "tanh": tanh,
    "relu": relu,
    "pooling": pooling,
    "batch_normalisation": batch_normalisation,
    "residual": residual,
}
FAMILIES = tuple(BUILDERS)


def draw_network(number: int, size: int) -> nn.Module:
    """Network `number` for images of `size` × `size`; the weights are drawn too."""
    # Pairs of networks five apart are the same architecture, one to be trained and one not.
    pair = number // (2 * len(FAMILIES)) * len(FAMILIES) + number % len(FAMILIES)
    random = np.random.default_rng(pair)
    torch.manual_seed(pair)
    return BUILDERS[FAMILIES[number % len(FAMILIES)]](random, size)
