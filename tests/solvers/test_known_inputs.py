"""One image's known inputs by themselves, in steps of a few products."""

from dataclasses import replace

import pytest
import torch
from cases import pictures
from torch import nn

from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.input_from_gradient import PartialInput
from leakage_audit.equations.known_inputs import RecoveredInput
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.known_inputs import by_known_inputs
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.statistical_linearization import PointLinearization

EPS = relative_error_of(torch.float32)


@pytest.fixture(scope="module")
def image():
    return pictures()[:1, :, 8:16, 8:16].contiguous()


@pytest.fixture(scope="module")
def equations(image):
    """Two rectifiers below an input that is known, and gradients below it."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    ).double()  # fmt: skip
    seen = observe(network, image.double(), 3, mean=0.5)
    h = network[:4](seen.to_input(image.double())).detach()
    way = Arrangement.of(network[4], tuple(h.shape[1:]))
    known = PartialInput.whole(h, torch.full_like(h, 1e-7), way)
    return RecoveredInputEquations(seen, [RecoveredInput("4", known, torch.ones_like(h), True)], EPS)


def test_they_leave_the_gradients_out(equations):
    alone = equations.without_gradients()
    assert alone.sizes == equations.sizes[:1]
    assert len(equations.sizes) > 1


def test_they_tell_the_image_in_fewer_products_than_exact_steps_take(equations, image, monkeypatch):
    products, linearize = [0], PointLinearization.__call__

    def counting(self, at, r):
        near = linearize(self, at, r)

        def jvp(v):
            products[0] += 1
            return near.jvp(v)

        return replace(near, jvp=jvp)

    monkeypatch.setattr(PointLinearization, "__call__", counting)
    options = SolverOptions()
    for solve in (by_known_inputs, gauss_newton_cg):
        products[0] = 0
        found = solve(equations.without_gradients(), TotalVariation(), 30, 1e9, Budget(), options=options)
        assert score(found.image.reshape(image.shape).float(), image).psnr[0] > 40
        if solve is by_known_inputs:
            few = products[0]
    assert few < products[0]
