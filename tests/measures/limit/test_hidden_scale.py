"""The limit where layers divide the images' scale out of the gradient."""

import pytest
import torch
from limit_networks import batch
from torch import nn

from leakage_audit import observe
from leakage_audit.measures.limit import GradientNoise, LimitOptions, reconstruction_limit

NORMS = {
    "none": (nn.Identity, False, False),
    "batch statistics": (lambda: nn.BatchNorm2d(4), True, False),
    "running statistics": (lambda: nn.BatchNorm2d(4).eval(), False, False),
    "groups": (lambda: nn.GroupNorm(2, 4), True, True),
    "instances": (lambda: nn.InstanceNorm2d(4), True, True),
}  # makes the layer; whether it hides the scale of the whole batch, and of one image whose neighbours are known


def network(name):
    torch.manual_seed(0)
    norm = NORMS[name][0]()
    first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    return nn.Sequential(first, norm, nn.Tanh(), nn.Flatten(), nn.Linear(144, 5)).double()


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("others", ["unknown", "known"])
def test_the_scale_is_granted_where_it_is_divided_out(name, others):
    images, labels = batch(2, 6)
    seen = observe(network(name), images, labels, mean=0.5)
    limit = reconstruction_limit(seen, images, labels, others=others)
    assert ("contrast" in limit.granted) is NORMS[name][1 if others == "unknown" else 2]
    assert set(limit.granted) <= {"contrast", *(f"mean of channel {k}" for k in range(3))}


@pytest.mark.parametrize("count", [1, 2])
def test_what_scaling_would_lose(count):
    """Grey explains the gradient; with the scale, images that two convolutions determine are known again."""
    images, labels = batch(count, 6)
    seen = observe(network("batch statistics"), images, labels, mean=0.5)
    noise = GradientNoise(relative=1e-3)
    lost, known = (
        reconstruction_limit(seen, images, labels, options=LimitOptions(noise=noise, hidden=hidden))
        for hidden in (0.0, 0.05)
    )
    shrunk = (lost.images - 0.5).norm() / (images - 0.5).norm()
    assert shrunk < 0.1
    assert min(known.psnr) > max(lost.psnr) + 20


def test_the_gradient_is_the_same_at_every_scale():
    """The reason, by the network itself: half the contrast, the same gradient but for the layer's epsilon."""
    images, labels = batch(2, 6)
    whole, half = (
        observe(network("batch statistics"), 0.5 + s * (images - 0.5), labels, mean=0.5).gradients for s in (1.0, 0.5)
    )
    for name, gradient in whole.items():
        assert (half[name] - gradient).norm() <= 0.02 * whole["0.weight"].norm()
