from math import prod

import pytest
from torch import nn

from leakage_audit.measures.architecture_changes import architecture_changes
from leakage_audit.measures.joint_rank import counted_joint_rank
from leakage_audit.models import build
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import Convolution

SHAPE = (3, 16, 16)


def convolutions(network, shape=SHAPE):
    return [layer for layer in read_chain(network, shape) if isinstance(layer, Convolution)]


def deficiency(network):
    return counted_joint_rank(convolutions(network)) - prod(SHAPE)


def net(channels=8, stride=1, pool=True):
    size = (16 - 3) // stride + 1
    after = size // 2 if pool else size
    layers = [nn.Conv2d(3, channels, 3, stride), nn.Tanh(), *([nn.AvgPool2d(2), nn.Tanh()] if pool else [])]
    return nn.Sequential(
        *layers, nn.Conv2d(channels, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * (after - 2) ** 2, 4)
    )


@pytest.mark.parametrize("pool", [True, False])
def test_predictions_are_those_of_the_changed_network(pool):
    found = {v.change: v.joint_deficiency for v in architecture_changes(convolutions(net(pool=pool)))}
    for change, network in {
        "0 with stride 2": net(stride=2, pool=pool),
        "0 with 4 channels": net(channels=4, pool=pool),
    }.items():
        if deficiency(network) < deficiency(net(pool=pool)):
            assert found[change] == deficiency(network)
        else:
            assert change not in found


def test_only_improvements_the_best_first():
    layers = convolutions(build("cnn4_v1", image_size=32), (3, 32, 32))
    now = counted_joint_rank(layers) - 3072
    found = [v.joint_deficiency for v in architecture_changes(layers)]
    assert found == sorted(found)
    assert all(value < now for value in found)


def test_changes_that_no_longer_fit_are_left_out():
    layers = convolutions(nn.Sequential(nn.Conv2d(3, 1, 16), nn.Tanh(), nn.Flatten(), nn.Linear(1, 4)))
    assert all("channels" not in v.change for v in architecture_changes(layers))


def test_nothing_to_vary():
    assert architecture_changes([]) == []
