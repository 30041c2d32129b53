"""A batch whose solution explains nothing gets what a first-order recipe finds."""

import math

import pytest
import torch
from cases import pictures
from torch import nn

from leakage_audit.attacks import joint_solver
from leakage_audit.attacks.joint import Joint
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.stopping import Status


@pytest.fixture(scope="module")
def images():
    return torch.cat([pictures()[:, :, :8, :8], pictures()[:, :, 16:24, 16:24]]).contiguous()


@pytest.fixture(scope="module")
def seen(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10, bias=False))
    return observe(network, images, torch.tensor([3, 5]), mean=0.5, grant_labels=True)


def run_away(equations, prior, max_steps, memory, budget, begin=None, options=None):
    """Far outside, as an iteration on bent equations may end."""
    image = torch.full((math.prod(equations.shape),), 30.0, dtype=torch.float64)
    r = equations.evaluate(image)
    unknown = torch.full_like(image, torch.nan)
    return joint_solver.Solution(image, r, unknown, None, 2, Status.STALLED)


def test_a_batch_that_ran_away_is_replaced(seen, images, monkeypatch):
    for name in ("gauss_newton_with_kinks", "gauss_newton_cg"):
        monkeypatch.setattr(joint_solver, name, run_away)
    found = Joint(max_steps=5)(seen, Budget(60.0))
    assert found.images.min() >= -0.5
    assert found.images.max() <= 1.5
    assert "cosine distance" in found.ended
    assert min(score(found.images, images).psnr) > 8
