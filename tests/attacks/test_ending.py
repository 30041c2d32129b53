"""Converged and succeeded: the two words for how an attack ended."""

import math
from dataclasses import replace

import pytest
import torch
from cases import smooth_picture
from torch import nn

from leakage_audit.attacks import DLG, CosineTV, Hybrid, Joint
from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.ending import EndingOptions, Settling, misfit
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfTime


class Returns(Attack):
    """A given image."""

    name = "returns"

    def __init__(self, image=None):
        self.image = image

    def reconstruct(self, seen, budget):
        return Found(seen.to_input(self.image), True, "given", 0.0)


def look(dtype=torch.float64, *layers, stride=1):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride), *layers, nn.Tanh(), nn.Flatten(), nn.Linear(216 // stride**2, 5)
    ).to(dtype)
    image = smooth_picture(8).to(dtype)
    return observe(network, image, 2, mean=0.5), image


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_truth_succeeds_and_a_guess_does_not(dtype):
    seen, image = look(dtype)
    assert Returns(image)(seen).succeeded
    grey = Returns(torch.full_like(image, 0.5))(seen)
    assert grey.converged
    assert not grey.succeeded
    assert grey.misfit > 10


def test_misfit_is_the_relative_error_over_the_parameters():
    seen, image = look()
    other = (image + 0.01).requires_grad_()
    loss = seen.loss(seen.network(other - 0.5), torch.tensor([2]))
    found = torch.autograd.grad(loss, list(seen.network.parameters()))
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, seen.gradients.values(), strict=True)]
    expected = math.sqrt(sum(e**2 for e in errors) / len(errors)) / 0.01
    options = EndingOptions(matched=0.01)
    assert misfit(seen, other.detach() - 0.5, torch.tensor([2]), options) == pytest.approx(expected, rel=1e-6)


def test_known_noise_is_allowed_for():
    seen, image = look()
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * float(seen.gradients["0.weight"].abs().mean())
    for gradient in seen.gradients.values():
        gradient += noise * torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
    assert not Returns(image)(seen).succeeded
    known = replace(seen, noise={name: torch.full_like(g, noise) for name, g in seen.gradients.items()})
    assert Returns().judged(Returns(image)(seen), known).succeeded


def test_an_entry_of_which_nothing_is_known_is_not_compared():
    seen, image = look()
    told = torch.ones_like(seen.gradients["0.weight"])
    told[0] = math.inf
    seen.gradients["0.weight"][0] = 1e6
    assert not Returns(image)(seen).succeeded
    known = replace(seen, noise={"0.weight": 1e-9 * told})
    assert Returns().judged(Returns(image)(seen), known).succeeded


def test_a_gradient_that_is_rounding_only_is_not_compared():
    seen, image = look(torch.float32, nn.BatchNorm2d(6))
    bias = seen.gradients["0.bias"]
    assert bias.norm() < 1e-5 * seen.gradients["0.weight"].norm()
    assert Returns(image)(seen).succeeded


def test_what_does_not_settle_has_not_converged():
    settling = Settling(100, EndingOptions())
    for step in range(99):
        settling(1.0 / (1 + step))
        assert not settling.settled
    settling(0.01)
    assert not settling.settled
    lost = Settling(2, EndingOptions())
    lost(math.nan)
    lost(math.inf)
    assert not lost.settled


def test_noise_on_a_level_objective_does_not_matter():
    settling = Settling(100, EndingOptions())
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        settling(1.0 + 0.1 * float(torch.rand((), generator=generator)))
    assert settling.settled


@pytest.mark.parametrize("attack", [CosineTV(iterations=8), DLG("paper", iterations=1), Hybrid(scale=1e-3)])
def test_few_steps_have_not_converged(attack):
    assert not attack(look(stride=2)[0]).converged


class Ticks(Budget):
    """Whose clock goes on by a second whenever it is looked at."""

    ticks = 0.0

    @property
    def spent(self):
        self.ticks += 1.0
        return self.ticks


def test_time_is_no_end_of_its_own():
    assert not CosineTV(iterations=500)(look()[0], Ticks(50.0)).converged
    with pytest.raises(OutOfTime):  # before there is anything to give back
        Joint()(look()[0], Budget(1e-3))


@pytest.mark.parametrize("wrong", [{"window": 0.0}, {"settled": -1.0}, {"matched": 2.0}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=f"EndingOptions.{next(iter(wrong))}"):
        EndingOptions(**wrong)
