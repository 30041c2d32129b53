from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import NETWORKS, pictures
from random_chains import random_chain

from leakage_audit.measures.probe_systems import systems_at
from leakage_audit.measures.security import security_metric
from leakage_audit.models import VARIANTS, build
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.observation import observe

# The table of docs/method.md, section 3.3: rank − n layer by layer, and c(M).
TABLE = {
    "cnn2_v1": ([0], 0),
    "cnn2_v2": ([-1470], -1470),
    "cnn3_v1": ([0, -4533], -2266.5),
    "cnn3_v2": ([-1470, -1050], -1995),
    "cnn3_v3": ([0, 0], 0),
    "cnn3_v4": ([-2146, 0], -2146),
    "cnn4_v1": ([0, -3965, -386], -2772),
    "cnn4_v2": ([0, -9316, 0], Fraction(-18632, 3)),
}
IMAGES = {"fish": 2, "sea": 7}


def trained(variant, steps):
    torch.manual_seed(10)
    network = build(variant)
    if steps:
        images = torch.cat([pictures(name, range(4)) for name in IMAGES]) - 0.5
        labels = torch.tensor([label for label in IMAGES.values() for _ in range(4)])
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(steps):
            adam.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            adam.step()
    return network


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("name", "steps"), [("fish", 0), ("sea", 0), ("fish", 30), ("sea", 30)])
def test_the_papers_table(variant, name, steps):
    deficiencies, c = TABLE[variant]
    image = pictures(name, [9])[0]
    found = security_metric(observe(trained(variant, steps), image, IMAGES[name], mean=0.5))
    assert [layer.deficiency for layer in found.layers] == deficiencies
    assert found.c == pytest.approx(float(c), rel=1e-15)


def test_the_layer_table():
    found = security_metric(observe(trained("cnn4_v1", 0), pictures()[0], 2, mean=0.5))
    assert [layer.name for layer in found.layers] == ["conv1", "conv2", "conv3"]
    assert [layer.unknowns for layer in found.layers] == [3072, 5400, 980]
    assert [layer.equations for layer in found.layers] == [5562, 1460, 603]
    assert [layer.weight for layer in found.layers] == [1, 2 / 3, 1 / 3]
    for layer in found.layers:
        assert layer.deficiency == layer.rank - layer.unknowns
        assert 1e-3 < layer.condition < 1
    as_dict = found.as_dict()
    assert as_dict["c"] == -2772
    assert as_dict["layers"][1]["name"] == "conv2"


def test_pooling_is_a_layer_and_biases_change_nothing():
    seen, _ = NETWORKS["modules"].observe()
    found = security_metric(seen)
    assert [layer.name for layer in found.layers] == ["0", "2", "3"]
    assert found.layers[1].deficiency == 5 * (9 - 36)


def test_without_convolutions_there_is_nothing_to_sum():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    found = security_metric(observe(network, torch.rand(3, 2, 2), 1))
    assert (found.c, found.layers) == (0, ())


def test_gradients_that_hold_nothing():
    seen, _ = NETWORKS["one convolution"].observe(loss=lambda scores, labels: 0 * scores.sum())
    with pytest.raises(ValueError, match="every gradient is zero"):
        security_metric(seen)


def test_networks_that_cannot_be_walked():
    seen, _ = NETWORKS["relu"].observe()
    with pytest.raises(UnreadableNetwork, match="relu"):
        security_metric(seen)


@pytest.mark.parametrize("seed", [seed for seed in range(300, 345) if random_chain(seed, linear=True) is not None])
def test_ranks_below_a_pooling_are_those_of_the_systems_at_the_image(seed):
    """The walk back finds a pooling's least-norm input only, whose system would have a lower rank than any image's."""
    network, shape = random_chain(seed, linear=True)
    x = torch.rand(1, *shape, dtype=torch.float64)
    systems = systems_at(read_chain(network, shape), x, torch.tensor([1]), F.cross_entropy)
    found = security_metric(observe(network, x, 1, loss=F.cross_entropy))
    assert [layer.rank for layer in found.layers] == [
        int(np.linalg.matrix_rank(system.matrix(), rtol=1e-9)) for system in systems
    ]
