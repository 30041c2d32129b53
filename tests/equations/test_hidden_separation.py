import copy
from dataclasses import replace

import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations.hidden_separation import separate_hidden
from leakage_audit.equations.network_above import fully_connected_layers, network_above, network_below
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget

EPS = {torch.float32: 1.2e-7, torch.float64: 2.2e-16}


def mlp(activation=nn.ReLU, width=150, classes=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, width), activation(), nn.Linear(width, 40), activation(), nn.Linear(40, classes)
    )


def see(batch, net=None, dtype=torch.float64, mean=0.0, classes=5):
    images = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    labels = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(4))
    net = (mlp() if net is None else net).to(dtype).eval()
    return images, labels, observe(net, images, labels, mean=mean).to(torch.float64)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize(("batch", "mean"), [(1, 0.0), (8, 0.0), (12, 0.0), (6, 0.5)])
def test_images_labels_and_derivatives_of_more_images_than_classes(batch, mean, dtype):
    images, labels, seen = see(batch, dtype=dtype, mean=mean)
    found = separate_hidden(seen, EPS[dtype])
    assert found.layer == "1"
    assert found.complete
    distance, match = torch.cdist(found.features, seen.to_input(images.double()).flatten(1)).min(1)
    assert sorted(match.tolist()) == list(range(batch))
    assert distance.max() < 1e5 * EPS[dtype]
    assert found.labels.tolist() == labels[match].tolist()
    z = seen.network[:2](seen.to_input(images.double())).detach().requires_grad_()
    (delta,) = torch.autograd.grad(seen.loss(seen.network[2:](z), labels), z)
    torch.testing.assert_close(found.delta, delta[match], atol=1e4 * EPS[dtype], rtol=0)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU])
def test_smooth_activations_certify_nothing(activation):
    assert separate_hidden(see(6, mlp(activation))[2], 2.2e-16) is None


def test_another_network_certifies_nothing():
    seen = see(4)[2]
    assert separate_hidden(replace(seen, network=mlp(seed=7).double()), 2.2e-16) is None


def test_an_image_twice_is_not_certified_with_a_label_of_its_own():
    images, labels, seen = see(4)
    images[1], labels[1] = images[0], (labels[0] + 1) % 5
    found = separate_hidden(observe(seen.network, images, labels), 2.2e-16)
    distance = torch.cdist(found.features, images.flatten(1))
    assert distance.min(1)[0].max() < 1e-9
    assert distance[:, :2].min() > 1e-3


def test_noise_is_noticed():
    images, _, seen = see(4)
    for gradient in seen.gradients.values():
        gradient += 1e-6 * gradient.square().mean().sqrt() * draw(*gradient.shape)
    found = separate_hidden(seen, 2.2e-16)
    error = torch.cdist(found.features, images.flatten(1)).min(1)[0] / 192**0.5
    assert (error < 10 * found.noise).all()
    assert found.noise.min() > 1e-8


def test_the_observation_is_left_alone_and_time_is_kept():
    seen = see(4)[2]
    before = copy.deepcopy(dict(seen.gradients))
    assert separate_hidden(seen, 2.2e-16, budget=Budget(seconds=1e-9)) is None
    separate_hidden(seen, 2.2e-16)
    assert all(torch.equal(before[name], gradient) for name, gradient in seen.gradients.items())


class Around(nn.Module):
    """The second layer sees the image by another path, too."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.two(self.one(x).relu() + x)


def test_the_network_above():
    net = mlp().double()
    assert fully_connected_layers(net) == ["1", "3", "5"]
    z = draw(3, 150)
    torch.testing.assert_close(network_above(net, "1")(z), net[2:](z))
    assert network_above(Around(), "one") is None


def test_the_network_below():
    net = mlp().double()
    x = draw(3, 3, 8, 8)
    below = network_below(net, "3")
    torch.testing.assert_close(below(x), net[:4](x))
    assert {name for name, _ in below.named_parameters()} == {
        f"{i}.{kind}" for i in (1, 3) for kind in ("weight", "bias")
    }
    assert network_below(net, "other") is None


def test_a_parameter_used_above_again_is_none_of_the_network_below():
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[3].weight = net[0].weight
    assert network_below(net, "1") is None
    assert network_below(net, "3") is not None
