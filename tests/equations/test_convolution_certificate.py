from dataclasses import replace

import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations.convolution_certificate import certify
from leakage_audit.equations.convolution_separation import separate_convolution
from leakage_audit.networks.dataflow import read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import observe


def network(seed=0, bias=False, around=False):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 80, 3, 2, 1), nn.ReLU(), nn.Conv2d(80, 90, 3, 1, 1, bias=bias),
        nn.Identity() if bias else nn.BatchNorm2d(90), nn.ReLU(), nn.Conv2d(90, 20, 3, 2, 1), nn.BatchNorm2d(20),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5),
    ).double()  # fmt: skip


def see(net, batch, mode, **options):
    images, labels = draw(batch, 3, 8, 8), torch.arange(batch) % 5
    return observe(net.train(mode == "train"), images, labels, **options), images, labels


def certified(seen, layer="2"):
    found = separate_convolution(seen, layer, 2.2e-16)
    return certify(seen, read_dataflow(stateless(seen.network)), found)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("batch", "bias"), [(1, False), (4, False), (4, True)])
def test_inputs_derivatives_and_labels(batch, bias, mode):
    net = network(bias=bias)
    seen, images, labels = see(net, batch, mode)
    found = certified(seen)
    h = net[:2](images).detach().requires_grad_()
    (slope,) = torch.autograd.grad(seen.loss(net[2:](h), labels), h)
    statistics = mode == "train" and not bias  # they forget the common size, up to ε
    assert found.scaled is not statistics
    h = h.detach()
    inputs = found.inputs * (h.norm() / found.inputs.norm() if statistics else 1)
    slope = slope if not statistics else slope * (found.inputs.norm() / h.norm()) ** -1
    distance, match = torch.cdist(inputs.flatten(1), h.flatten(1)).min(1)
    assert sorted(match.tolist()) == list(range(batch))
    assert distance.max() < 1e-5
    torch.testing.assert_close(found.input_gradients, slope[match], atol=1e-6, rtol=1e-4)
    assert found.labels.tolist() == labels[match].tolist()


def test_granted_labels_give_the_order():
    net = network()
    seen, images, labels = see(net, 4, "eval", grant_labels=True)
    found = certified(replace(seen, labels=labels.flip(0)))
    assert (found.inputs - net[:2](images).flip(0)).abs().max() < 1e-5
    assert certified(replace(seen, labels=(labels + 1) % 5)) is None


def test_another_network_certifies_nothing():
    seen, _, _ = see(network(), 4, "train")
    other = network(seed=1).train()
    found = separate_convolution(seen, "2", 2.2e-16)  # needs no weights
    assert certify(replace(seen, network=other), read_dataflow(stateless(other)), found) is None
