"""Images that a chain's first layer determines by itself, against the truth and against Gauss-Newton."""

import pytest
import torch
from torch import nn

from leakage_audit.attacks import Joint
from leakage_audit.equations.layer_peeling import PeelingOptions, peel_layers
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.read_off import read_off_chain


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seen(image, network):
    return observe(network.double(), image, 2, mean=0.5)


def determined():
    torch.manual_seed(0)
    return build("cnn2_v1", image_size=12)


def test_it_is_the_image_and_joint_takes_it(image):
    equations = peel_layers(seen(image, determined()), 1e-14)
    found = read_off_chain(equations, SolverOptions())
    assert (found.image - image.flatten()).abs().max() < 1e-9
    assert (found.rank, found.steps, found.solved) == (image.numel(), 0, True)
    joint = Joint()(seen(image, determined()))
    assert "own system" in joint.ended
    assert joint.details["joint_deficiency"] == 0
    assert joint.details["pinned"] == image.numel()


def test_its_standard_deviation_is_that_of_the_error():
    """From float32 gradients, whose rounding the replicas imitate; they draw four times the rounding."""
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    single = observe(determined(), image, 2, mean=0.5).to(torch.float64)
    found = read_off_chain(peel_layers(single, 4 * 2.0**-23), SolverOptions())
    error = (found.image - image.flatten()).square().mean().sqrt()
    assert error < 3 * found.std.mean()
    assert found.std.mean() < 100 * error


def test_a_layer_that_does_not_determine_its_input_is_left_to_gauss_newton(image):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 5), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 64, 5))
    equations = peel_layers(seen(image, network), 1e-14)
    assert equations.solution is None
    assert read_off_chain(equations, SolverOptions()) is None


def test_so_is_a_layer_that_is_too_large(image):
    assert peel_layers(seen(image, determined()), 1e-14, PeelingOptions(largest_system=400)).solution is None


def test_a_solution_that_the_equations_contradict_is_none(image):
    equations = peel_layers(seen(image, determined()), 1e-14)
    value, noise = equations.solution
    equations.solution = value + 0.1, noise
    assert read_off_chain(equations, SolverOptions()) is None
