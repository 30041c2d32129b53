"""Batch statistics carry the parameters into every derivative: without a Jacobian, no product may keep its graph."""

import gc

import pytest
import torch
from torch import nn

from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.statistical_linearization import PointLinearization, StatisticalLinearization


@pytest.fixture(scope="module")
def equations():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 5))
    seen = observe(network.double().train(), torch.rand(2, 3, 6, 6).double(), torch.tensor([1, 3]), grant_labels=True)
    return AutogradEquations(seen, 1e-15)


@pytest.fixture
def only_new():
    """Objects that are there already are left out of what the collector looks at, which takes most of a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def graphs():
    gc.collect()
    return sum(type(x) is torch.Tensor and x.grad_fn is not None for x in gc.get_objects())


@pytest.mark.parametrize("linearization", [PointLinearization, StatisticalLinearization])
def test_no_product_requires_a_gradient(equations, linearization):
    image = torch.full((216,), 0.5, dtype=torch.float64)
    with torch.enable_grad():
        near = linearization(equations)(image, equations.evaluate(image))
        found = [near.r, near.jvp(image), near.vjp(near.r), near.variance]
    assert not any(tensor.requires_grad for tensor in found)


def test_as_many_graphs_are_alive_after_many_steps_as_after_one(equations, only_new):
    alive = []

    class Counted(Budget):
        def steps(self, total, what):
            for step in super().steps(total, what):
                yield step
                alive.append(graphs())

    with torch.enable_grad():
        gauss_newton_cg(equations, TotalVariation(), 4, 0.0, Counted())
    assert len(alive) >= 2
    assert alive[-1] <= alive[0]
