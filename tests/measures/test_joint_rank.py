from math import prod

import pytest
import torch
import torch.nn.functional as F
from cases import NETWORKS, draw, pictures
from random_chains import random_chain
from torch import nn

from leakage_audit.measures.joint_rank import counted_joint_rank, joint_deficiency, joint_rank, seen_inputs
from leakage_audit.models import build
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.observation import observe


def convolutions(network, shape):
    return [layer for layer in read_chain(network, shape) if isinstance(layer, SpatialLayer)]


def gradient_rank(network, x, label=1):
    """Rank of the whole gradient's Jacobian in the image, by autograd."""
    parameters = list(network.parameters())

    def gradient(image):
        loss = F.cross_entropy(network(image), torch.tensor([label]))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])

    jacobian = torch.autograd.functional.jacobian(gradient, x, vectorize=False).flatten(1)
    return int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))


def chain(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double()


SMALL = {
    "one layer short": lambda: chain(nn.Conv2d(2, 2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)),
    "two layers": lambda: chain(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4)
    ),
    "biased below": lambda: chain(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 4, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(2, 4)
    ),
    "unread corner": lambda: chain(
        nn.Conv2d(2, 5, 3, bias=False), nn.Tanh(), nn.Conv2d(5, 5, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(20, 4)
    ),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_counting_against_the_gradients_own_jacobian(make):
    network = make()
    size = 8 if "unread" not in str(make) else 7
    x = draw(1, 2, size, size)
    if network[-1].in_features != network[:-1](x).numel():
        network[-1] = nn.Linear(network[:-1](x).numel(), 4).double()
    expected = gradient_rank(network, x)
    assert counted_joint_rank(convolutions(network, tuple(x.shape[1:]))) == expected
    assert joint_rank(observe(network, x, 1)) == expected


CHAINS = {seed: drawn for seed in range(60) if (drawn := random_chain(seed)) is not None}


@pytest.mark.parametrize("seed", CHAINS)
def test_counting_is_the_rank_of_random_chains(seed):
    network, shape = CHAINS[seed]
    assert counted_joint_rank(convolutions(network, shape)) == gradient_rank(network, draw(1, *shape, seed=seed))


LINEAR = {seed: drawn for seed in range(1000, 1020) if (drawn := random_chain(seed, linear=True)) is not None}


@pytest.mark.parametrize("seed", LINEAR)
def test_counting_is_never_below_the_rank(seed):
    """Without activations between convolutions it may be above."""
    network, shape = LINEAR[seed]
    assert counted_joint_rank(convolutions(network, shape)) >= gradient_rank(network, draw(1, *shape, seed=seed))


def test_unread_pixels_of_cnn4_v2():
    found = convolutions(build("cnn4_v2"), (3, 32, 32))
    assert seen_inputs(found) == 3 * 31 * 31
    assert counted_joint_rank(found) == 2883
    assert joint_deficiency(found) == 2883 - 3 * 32 * 32
    assert joint_deficiency([]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "rank"), [("cnn2_v2", 1602), ("cnn3_v1", 1029), ("cnn3_v2", 588), ("cnn4_v1", 1236)]
)
def test_the_papers_networks(variant, rank):
    torch.manual_seed(10)
    assert joint_rank(observe(build(variant), pictures()[0], 3, mean=0.5)) == rank


def test_where_every_layer_determines_its_input():
    case = NETWORKS["one convolution"]
    assert counted_joint_rank(convolutions(case.network(), case.shape)) == prod(case.shape)


def test_nothing_leaks_from_a_flat_loss():
    seen, _ = NETWORKS["stride"].observe(loss=lambda scores, labels: 0 * scores.sum())
    with pytest.raises(ValueError, match="every gradient is zero"):
        joint_rank(seen)
