import pytest
import torch
import torchvision
from cases import CONVOLUTIONS, NETWORKS, conv, layer_of
from torch import nn

from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import Convolution
from leakage_audit.networks.tracing import convolutions_met

GEOMETRY = ("stride", "padding", "dilation", "groups", "in_shape", "out_shape")


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_geometry(name):
    module = conv(name)
    (met,) = convolutions_met(nn.Sequential(module), (module.in_channels, 7, 8))
    expected = layer_of(module)
    assert [getattr(met, key) for key in GEOMETRY] == [getattr(expected, key) for key in GEOMETRY]
    assert met.weight is module.weight


def test_the_same_as_the_chains_where_there_is_one():
    case = NETWORKS["functions"]
    network = case.network()
    expected = [x for x in read_chain(network, case.shape) if isinstance(x, Convolution) and x.learned]
    assert [x.name for x in convolutions_met(network, case.shape)] == [x.name for x in expected]


def test_residual_networks_and_no_hook_stays():
    network = torchvision.models.resnet18().eval()
    assert len(convolutions_met(network, (3, 64, 64))) == 20
    assert not any(module._forward_hooks for module in network.modules())


def test_a_shape_that_does_not_fit():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(10, 2))
    with pytest.raises(ValueError, match=r"Sequential does not accept images of shape \(3, 8, 8\)"):
        convolutions_met(network, (3, 8, 8))
    assert not network[0]._forward_hooks


def test_float64_and_no_parameters():
    assert len(convolutions_met(nn.Conv2d(3, 2, 3).double(), (3, 8, 8))) == 1
    assert convolutions_met(nn.Flatten(), (3, 8, 8)) == []
    assert torch.is_grad_enabled()
