"""One table of small convolutions and one of small networks: what the engine's tests run over."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.data import synthetic
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import Convolution
from leakage_audit.observation import observe

SIZE = (7, 8)  # of the convolutions' input: odd, even and not square

# Arguments of nn.Conv2d.
CONVOLUTIONS = {
    "plain": dict(in_channels=2, out_channels=3, kernel_size=3, bias=False),
    "bias": dict(in_channels=2, out_channels=3, kernel_size=3),
    "many filters": dict(in_channels=2, out_channels=9, kernel_size=3),
    "one filter": dict(in_channels=3, out_channels=1, kernel_size=2, bias=False),
    "one by one": dict(in_channels=3, out_channels=4, kernel_size=1),
    "whole image": dict(in_channels=2, out_channels=4, kernel_size=SIZE),
    "oblong": dict(in_channels=2, out_channels=3, kernel_size=(1, 4), bias=False),
    "stride": dict(in_channels=2, out_channels=5, kernel_size=3, stride=2, bias=False),
    "stride beyond kernel": dict(in_channels=2, out_channels=3, kernel_size=2, stride=3),
    "uneven stride": dict(in_channels=2, out_channels=4, kernel_size=(3, 2), stride=(1, 2)),
    "padding": dict(in_channels=2, out_channels=3, kernel_size=3, padding=1),
    "uneven padding": dict(in_channels=2, out_channels=3, kernel_size=3, padding=(2, 0), bias=False),
    "same padding": dict(in_channels=1, out_channels=2, kernel_size=5, padding="same"),
    "dilation": dict(in_channels=2, out_channels=3, kernel_size=2, dilation=3),
    "uneven dilation": dict(in_channels=2, out_channels=3, kernel_size=3, dilation=(1, 2), bias=False),
    "groups": dict(in_channels=4, out_channels=6, kernel_size=3, groups=2),
    "depthwise": dict(in_channels=3, out_channels=3, kernel_size=3, groups=3, bias=False),
    "depthwise, several filters": dict(in_channels=2, out_channels=6, kernel_size=2, groups=2),
    "all at once": dict(
        in_channels=4, out_channels=6, kernel_size=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2
    ),
}


def draw(*shape, seed=1):
    """Normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pictures(scene="fish", indices=(0,)):
    """Synthetic pictures in [0, 1], `(N, 3, 32, 32)`."""
    return synthetic.draw(scene, list(indices)) / 255


def conv(case):
    """The convolution of a case in float64, weights from a seed."""
    torch.manual_seed(0)
    return nn.Conv2d(**CONVOLUTIONS[case]).double()


def layer_of(module, size=SIZE) -> Convolution:
    """A module's place in a chain whose input has this size."""
    shape = (getattr(module, "in_channels", 3), *size)
    features = module(torch.zeros(1, *shape, dtype=torch.float64)).numel()
    return read_chain(nn.Sequential(module, nn.Flatten(), nn.Linear(features, 2)).double(), shape)[0]


def system_of(module, size=SIZE):
    """A layer's system at a known input, and that input `(n,)`; ∂L/∂z is drawn at random."""
    layer = layer_of(module, size)
    x = draw(1, *layer.in_shape)
    z = layer(x)
    dz = draw(*layer.out_shape, seed=2)
    gradient = torch.autograd.grad(z, layer.weight, dz[None], retain_graph=True)[0] if layer.learned else None
    return LayerSystem(layer, dz, z.detach()[0], gradient), x.flatten()


class Functions(nn.Module):
    """Activations, pooling and flattening as functions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 8, 2)
        self.fc1, self.fc2 = nn.Linear(32, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = torch.tanh(self.conv1(x))
        x = F.avg_pool2d(x, 2)
        x = F.dropout(F.leaky_relu(self.conv2(x), negative_slope=0.2), 0.5, self.training)
        x = x.view(x.size(0), -1)
        return self.fc2(self.fc1(x).sigmoid())


def modules():
    """The layers of `Functions`, as modules."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(5, 8, 2), nn.LeakyReLU(0.2), nn.Dropout(),
        nn.Flatten(), nn.Linear(32, 12), nn.Sigmoid(), nn.Linear(12, 4),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A small network.

    Attributes:
        make: Builds it; weights come from torch's global stream.
        shape: `(C, H, W)` of its input.
        full: Whether every layer's system determines its input.
        invertible: Whether the sweep can go back through its activations.
    """

    make: object
    shape: tuple[int, int, int] = (3, 8, 8)
    full: bool = False
    invertible: bool = True

    def network(self, seed=0):
        """The network in float64 and eval mode."""
        torch.manual_seed(seed)
        return self.make().double().eval()

    def observe(self, seed=0, label=1, **settings):
        """What leaks of one image, and the image `(1, C, H, W)`."""
        x = draw(1, *self.shape, seed=seed + 1)
        return observe(self.network(seed), x, label, **settings), x


NETWORKS = {
    "one convolution": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5)), full=True
    ),
    "two convolutions, biased": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 7, 3), nn.Tanh(), nn.Conv2d(7, 12, 2), nn.Softplus(), nn.Flatten(), nn.Linear(300, 5)
        ),
        full=True,
    ),
    "padded, grouped, dilated": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1, groups=2),
            nn.ELU(),
            nn.Conv2d(8, 12, 2, dilation=2),
            nn.SELU(),
            nn.Flatten(),
            nn.Linear(432, 4),
        ),
        shape=(2, 8, 8),
        full=True,
    ),
    "three linear layers": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(216, 9),
            nn.Sigmoid(),
            nn.Linear(9, 7, bias=False),
            nn.Tanh(),
            nn.Linear(7, 5),
        ),
        full=True,
    ),
    "no activation": Case(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(216, 5)), full=True),
    "stride": Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5))),
    "modules": Case(modules),
    "functions": Case(Functions),
    "relu": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)), invertible=False
    ),
    "silu": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Flatten(), nn.Linear(216, 5)), invertible=False
    ),
}
FULL = [name for name, case in NETWORKS.items() if case.full]


def smooth_picture(size=12):
    """Soft blobs of colour with an edge through them."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    image = torch.stack([0.5 + 0.3 * torch.sin(2 * x + y), 0.5 + 0.3 * torch.cos(x * y + x), 0.4 + 0.3 * x * x])
    return torch.where(x > 0.3 * y, image, 1 - image)[None]


class Residual(nn.Module):
    """A shortcut around a convolution, for pictures of 12 × 12."""

    def __init__(self, activation):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.activation = nn.Linear(8 * 36, 10), activation

    def forward(self, x):
        h = self.activation(self.one(x))
        return self.fc(F.avg_pool2d(self.activation(h + self.two(h)), 2).flatten(1))
