import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import nn

from leakage_audit.equations.smoothed_kinks import SmoothedKinks


class Pooled(nn.Module):
    """Pooling by a function, with what torch allows of it."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, x):
        return F.max_pool2d(x, **self.settings)


NETWORKS = {
    "rectifier": nn.ReLU(),
    "in place": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "leaky": nn.LeakyReLU(0.2),
    "clipped": nn.ReLU6(),
    "pooling": nn.MaxPool2d(2),
    "overlapping, padded": Pooled(kernel_size=3, stride=2, padding=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_mean_over_moves(name):
    net, x, moves = NETWORKS[name], 0.3 * draw(1, 2, 6, 6), 0.2 * draw(4000, 2, 6, 6, seed=1)
    kinks = SmoothedKinks()
    for move in moves[:200]:
        with kinks:
            net(x + move)
    kinks.settle()
    with kinks:
        smooth = net(x.clone())
    mean = net(x + moves).mean(0, keepdim=True)
    assert float((smooth - mean).norm()) < 0.3 * float((net(x.clone()) - mean).norm()) + 0.02 * float(mean.norm())


def test_derivatives_pass_through_torch_func():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2)).double()
    x, kinks = draw(1, 2, 6, 6), SmoothedKinks()
    for k in range(4):
        with kinks:
            net(x + 0.1 * draw(1, 2, 6, 6, seed=k))
    kinks.settle()

    def value(x):
        with kinks:
            return net(x).square().sum()

    net.requires_grad_(False)
    slopes = torch.func.vmap(torch.func.grad(value))(torch.stack([x, 2 * x]))
    v = draw(*x.shape, seed=9)
    numeric = (value(x + 1e-5 * v) - value(x - 1e-5 * v)) / 2e-5
    assert float((slopes[0] * v).sum()) == pytest.approx(float(numeric), rel=1e-5)
