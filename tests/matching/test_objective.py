import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.matching.objective import Candidates, cosine_distance, mean_cosine_distance, squared_distance
from leakage_audit.observation import observe


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5)).double()


X = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([3, 1])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_at_the_true_input_are_those_observed(training):
    seen = observe(network().train(training), X, Y, mean=0.5)
    found = Candidates(seen).gradients(seen.to_input(X), Y)
    assert squared_distance(found, tuple(seen.gradients.values())) < 1e-24
    assert cosine_distance(found, tuple(seen.gradients.values())) < 1e-12


def test_gradients_can_be_differentiated_again():
    seen = observe(network().eval(), X, Y)
    candidates = Candidates(seen)
    x = torch.full_like(X, 0.5).requires_grad_()
    value = lambda x: squared_distance(candidates.gradients(x, Y), candidates.targets)  # noqa: E731
    assert torch.autograd.gradcheck(value, x, nondet_tol=1e-10, fast_mode=True)


def test_the_observation_keeps_its_weights_and_running_statistics():
    seen = observe(network().train(), X, Y)
    before = copy.deepcopy(seen.network.state_dict())
    Candidates(seen).gradients(torch.zeros_like(X), Y)
    after = seen.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_features_are_the_last_layers_input():
    seen = observe(network().eval(), X, Y)
    candidates = Candidates(seen)
    assert candidates.features is None
    candidates.gradients(X, Y)
    assert torch.allclose(candidates.features, seen.network[:4](X))


def test_frozen_parameters_are_left_out():
    model = network().eval()
    model[0].weight.requires_grad_(False)
    candidates = Candidates(observe(model, X, Y))
    assert len(candidates.gradients(X, Y)) == len(candidates.targets) == 5


def test_distances_against_long_vectors():
    generator = torch.Generator().manual_seed(2)
    found = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in [(3, 4), (5,)]]
    targets = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in [(3, 4), (5,)]]
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (found, targets))
    apart = [1 - F.cosine_similarity(g.flatten(), t.flatten(), dim=0) for g, t in zip(found, targets, strict=True)]
    assert torch.allclose(cosine_distance(found, targets), 1 - F.cosine_similarity(a, b, dim=0))
    assert torch.allclose(mean_cosine_distance(found, targets), sum(apart) / 2)
    assert torch.allclose(squared_distance(found, targets), (a - b).square().sum())


def test_distance_from_a_vanishing_gradient_has_a_finite_derivative():
    x = torch.zeros(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(cosine_distance([x], [torch.ones(4)]), x)
    assert torch.isfinite(gradient).all()
