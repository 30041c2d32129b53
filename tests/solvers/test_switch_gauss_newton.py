"""An image and its network's switches, found together from a start at which many switches are wrong."""

import pytest
import torch
from cases import draw, smooth_picture
from torch import nn

from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.observation import observe
from leakage_audit.priors import PRIORS
from leakage_audit.runtime import Budget
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.options import SolverOptions, SwitchOptions
from leakage_audit.solvers.stopping import Status
from leakage_audit.solvers.switch_gauss_newton import gauss_newton_with_switches

SIZE = 6
NETWORKS = {
    "rectifiers": (nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)),
    "pooling": (nn.Conv2d(3, 10, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(90, 10)),
}


def problem(name, seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(*NETWORKS[name])
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    image = smooth_picture()[:, :, :SIZE, :SIZE].double()
    return AutogradEquations(observe(network.double(), image, 3, mean=0.5), 1e-12), image


def begin(equations, image, off=0.03):
    image = (image + off * draw(image.numel(), 1, seed=7).reshape(image.shape)).flatten()
    return Solution(image, equations.evaluate(image), torch.full_like(image, torch.nan), None, 5, Status.STALLED)


def solved(equations, start, steps=15, **how):
    options = SolverOptions(switches=SwitchOptions(**how))
    return gauss_newton_with_switches(equations, PRIORS["colour_tv"](), steps, 1e9, Budget(), start, options)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_switches_are_found_from_a_start_at_which_many_are_wrong(name):
    equations, image = problem(name)
    start = begin(equations, image)
    true = equations.switches(image.flatten()).on
    wrong = int((equations.switches(start.image).on != true).sum())
    found = solved(equations, start)
    assert wrong > 5
    assert score(start.image.reshape(image.shape).float(), image.float()).psnr[0] < 32
    assert score(found.image.reshape(image.shape).float(), image.float()).psnr[0] > 100
    assert bool((equations.switches(found.image).on == true).all())
    assert found.status is Status.SOLVED
    assert found.rank == image.numel()
    assert found.steps > start.steps


def test_another_network_s_gradient_leaves_a_residual_and_what_was_there():
    equations, image = problem("rectifiers")
    other, _ = problem("rectifiers", seed=1)
    equations.blocks = other.blocks
    start = begin(equations, image)
    found = solved(equations, start, steps=2)
    assert found.status is not Status.SOLVED
    assert found.r.norm() <= equations.residual(start.image).norm()


def test_where_nothing_fits_the_start_is_returned():
    equations, image = problem("rectifiers")
    start = begin(equations, image)
    options = SolverOptions()
    for memory, budget in ((1e4, Budget()), (1e9, Budget(seconds=1e-9))):
        found = gauss_newton_with_switches(equations, PRIORS["colour_tv"](), 9, memory, budget, start, options)
        assert torch.equal(found.image, start.image)
    assert found.status is Status.TIME_UP
