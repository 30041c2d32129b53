"""Images below batch statistics, solved at statistics that are held still or that ε tells."""

import pytest
import torch
from cases import draw, pictures
from torch import nn

from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.attacks.joint_solver import JointSolver
from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.equations.input_from_gradient import PartialInput
from leakage_audit.equations.known_inputs import RecoveredInput
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget
from leakage_audit.solvers.frozen_statistics import FrozenOptions, at_frozen_statistics
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.told_statistics import at_told_statistics

EPS = 1e-12


@pytest.fixture
def opened(request):
    """The equations of three images whose inputs of a layer above a batch normalisation are known, and the images."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 5),
    ).double()  # fmt: skip
    with torch.no_grad():
        net[1].weight.uniform_(0.5, 2)
        net[1].bias.normal_()
    net.train(getattr(request, "param", "training") == "training")
    images = pictures(indices=(0, 1, 2))[:, :, ::4, ::4].double()
    seen = observe(net, images, torch.arange(3), mean=0.5)
    h = net[:3](images - 0.5).detach().requires_grad_()
    (slope,) = torch.autograd.grad(seen.loss(net[3:](h), torch.arange(3)), h)
    way = Arrangement.of(net[3], tuple(h.shape[1:]))
    known = PartialInput.whole(h.detach(), torch.full_like(h, EPS), way)
    return RecoveredInputEquations(seen, [RecoveredInput("3", known, slope, True)], EPS), images


def test_at_the_true_images_statistics_they_solve_the_equations_the_gradients_too(opened):
    equations, images = opened
    assert equations.mixes
    frozen = equations.at_statistics_of(images, gradients=True)
    assert not frozen.mixes
    assert [block.name for block in frozen.blocks] == ["input of 3", "0.weight", "1.weight", "1.bias"]
    assert frozen.residual(images).abs().max() < 1e-8
    assert equations.residual(images).abs().max() < 1e-8
    others = equations.at_statistics_of(0.5 + 0.1 * draw(3, 3, 8, 8), gradients=True)
    assert others.residual(images).abs().max() > 0.1
    assert len(equations.at_statistics_of(images, gradients=False).blocks) == 1


def test_images_come_back_up_to_their_contrast(opened):
    equations, images = opened
    options = FrozenOptions(steps=2, cheap=2, rounds=0)
    found = at_frozen_statistics(equations, TotalVariation(), 1e8, Budget(), None, options)
    error = (found.image.reshape(images.shape) - 0.5).flatten()
    truth = (images - 0.5).flatten()
    assert float(error.square().mean().sqrt()) == pytest.approx(options.contrast)
    assert float(torch.nn.functional.cosine_similarity(error, truth, 0)) > 0.75
    assert found.steps == 4


def test_at_the_variances_that_epsilon_tells_a_batch_comes_back_with_its_contrast(opened):
    equations, images = opened
    found = at_told_statistics(equations, TotalVariation(), 30, 1e8, Budget())
    assert len(found.r) == images.shape[0] * 24 * 64  # the known inputs alone
    error = found.image.reshape(images.shape) - images
    assert float(error.square().mean()) < 1e-3  # 30 dB
    assert float((found.image - 0.5).norm()) == pytest.approx(float((images - 0.5).norm()), rel=0.05)


def test_without_told_variances_there_is_no_solution_at_them(opened):
    equations, _ = opened
    with torch.no_grad():
        equations.seen.gradients["0.weight"] *= -1  # negative variances
    assert at_told_statistics(equations, TotalVariation(), 1, 1e8, Budget()) is None


@pytest.mark.parametrize("opened", ["eval"], indirect=True)
def test_at_running_statistics_a_batch_s_known_inputs_come_first(opened, monkeypatch):
    equations, images = opened
    solved = []

    def watched(own, *args):
        solved.append(len(own.blocks))
        return gauss_newton_cg(own, *args)

    for module in ("attacks.joint_solver", "solvers.known_inputs"):
        monkeypatch.setattr(f"leakage_audit.{module}.gauss_newton_cg", watched)
    found = JointSolver(TotalVariation(), 10, 1e9, JointOptions())(equations, equations.seen, Budget())
    assert solved == [1, len(equations.blocks)]
    assert len(found.r) == len(equations.noise)
    assert float((found.image.reshape(images.shape) - images).square().mean()) < 1e-3  # 30 dB
