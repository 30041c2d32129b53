import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gaussian_update import GaussianUpdate
from leakage_audit.solvers.linearization_error import (
    NonsmoothErrorModel,
    SmoothErrorModel,
    perturbation_scale,
    shrink_to_block_mean,
)
from leakage_audit.solvers.options import LinearizationOptions

EPS, MEMORY = relative_error_of(torch.float64), 1e9


def see(activation, layers=2, channels=6):
    torch.manual_seed(0)
    # The second is too narrow to be solved on its own.
    second = [nn.Conv2d(channels, 2, 3), activation] if layers > 1 else []
    features = 2 * 4**2 if layers > 1 else channels * 6**2
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3), activation, *second, nn.Flatten(), nn.Linear(features, 5)
    ).double()
    image = 0.5 + 0.2 * draw(1, 3, 8, 8)
    return image.flatten(), observe(network, image, 2, mean=0.5)


def step_from(near, image):
    gaussian = TotalVariation().local_gaussian(image.reshape(1, 3, 8, 8))
    return GaussianUpdate(image, near.r, near.jacobian, near.variance + 1e-14, gaussian)


class TestSmooth:
    def test_linear_equations_are_trusted_and_linearised_once(self):
        image, seen = see(nn.Tanh(), layers=1)
        equations = peel_layers(seen, EPS)
        assert equations.linear
        bends, grey = SmoothErrorModel(equations, MEMORY, Budget()), torch.full_like(image, 0.5)
        near = bends.first(grey)
        assert not near.variance.any()
        again = bends.update(near, step_from(near, grey), image, equations.residual(image))
        assert again.jacobian is near.jacobian

    def test_others_by_what_the_last_step_was_off(self):
        image, seen = see(nn.Tanh())
        equations = peel_layers(seen, EPS)
        bends, grey = SmoothErrorModel(equations, MEMORY, Budget()), torch.full_like(image, 0.5)
        near = bends.first(grey)
        assert torch.equal(near.variance, torch.full_like(near.r, 0.03**2))
        r = equations.residual(image)
        off = r - near.r - near.jacobian @ (image - grey)
        again = bends.update(near, step_from(near, grey), image, r)
        torch.testing.assert_close(again.variance, torch.full_like(r, 0.09 * float(off.square().mean())))
        torch.testing.assert_close(again.r, r)


class TestKinked:
    @pytest.mark.parametrize("equations_of", [peel_layers, AutogradEquations])
    def test_variance_covers_what_the_linearisation_misses(self, equations_of):
        image, seen = see(nn.LeakyReLU(0.2))
        equations = equations_of(seen, EPS)
        bends, initial_guess = NonsmoothErrorModel(equations, MEMORY, Budget()), image + 0.05 * draw(192, seed=3)
        first = bends.first(initial_guess)
        step = step_from(first, initial_guess)
        r = equations.residual(step.image)
        near = bends.update(first, step, step.image, r)
        for perturbation in step.sample(10, torch.Generator().manual_seed(7)):
            missed = equations.residual(step.image + perturbation) - near.r - near.jacobian @ perturbation
            assert float((missed.square() / near.variance).mean()) < 3

    def test_equations_that_jump_are_trusted_less(self):
        image, seen = see(nn.LeakyReLU(0.2))
        equations = peel_layers(seen, EPS)
        variance = NonsmoothErrorModel(equations, MEMORY, Budget()).first(image + 0.01 * draw(192, seed=3)).variance
        features, last, first, *_ = variance.split(equations.sizes)
        assert first.mean() > 10 * max(features.mean(), last.mean())

    def test_chains_round_their_kinks_off_and_networks_do_not(self):
        image, seen = see(nn.LeakyReLU(0.2))
        perturbations = 0.1 * draw(16, 192, seed=3)
        chain, network = peel_layers(seen, EPS), AutogradEquations(seen, EPS)
        assert network.smoothed(image, perturbations) is network
        near = chain.smoothed(image, perturbations)
        assert near.layers[0].activation.smooth
        assert near.layers[-1] is chain.layers[-1]
        found = torch.stack([chain.residual(image + p) for p in 0.1 * draw(4000, 192, seed=4)]).mean(0)
        size = chain.sizes[0]  # the features, which are linear in what the kinks give
        assert (near.residual(image) - found)[:size].norm() < 0.5 * (chain.residual(image) - found)[:size].norm()

    def test_smooth_chains_have_nothing_to_round(self):
        image, seen = see(nn.Tanh())
        chain = peel_layers(seen, EPS)
        assert chain.smoothed(image, draw(4, 192)) is chain


def test_a_spent_budget_ends_a_linearisation():
    image, seen = see(nn.Tanh())
    for equations in (peel_layers(seen, EPS), AutogradEquations(seen, EPS)):
        with pytest.raises(TimeoutError, match="time"):
            equations.linearize(image, MEMORY, Budget(seconds=1e-9))


def test_without_memory_for_draws_probes_go_all_ways(monkeypatch):
    image, seen = see(nn.LeakyReLU(0.2), channels=3)
    equations = peel_layers(seen, EPS)
    bends, initial_guess = NonsmoothErrorModel(equations, 1e5, Budget()), image + 0.05 * draw(192, seed=3)
    first = bends.first(initial_guess)
    step = step_from(first, initial_guess)
    assert step.dual
    monkeypatch.delattr(GaussianUpdate, "sample")
    near = bends.update(first, step, step.image, equations.residual(step.image))
    assert (near.variance > 0).all()


@pytest.mark.parametrize(
    "options",
    [LinearizationOptions(), LinearizationOptions(widen=5.0, behind=0.0), LinearizationOptions(behind=1e3)],
    ids=["as is", "wide", "behind"],
)
def test_probes_are_the_posterior_s_widened_or_as_long_as_the_step(options, monkeypatch):
    image, seen = see(nn.LeakyReLU(0.2))
    equations, begin = peel_layers(seen, EPS), image + 0.05 * draw(192, seed=3)
    model, again = (NonsmoothErrorModel(equations, MEMORY, Budget(), options, seed=5) for _ in range(2))
    near, _ = model.first(begin), again.first(begin)  # both generators have drawn as much
    step = step_from(near, begin)
    expected, probed = step.sample(options.probes, again._generator), []
    size = options.behind * (image - begin).norm() / 192**0.5 / expected.square().mean().sqrt()
    smoothed = equations.smoothed
    monkeypatch.setattr(equations, "smoothed", lambda x, p: probed.append(p.clone()) or smoothed(x, p))
    model.update(near, step, image, equations.residual(image))
    torch.testing.assert_close(probed[0], expected * max(options.widen, float(size)))


@pytest.mark.parametrize("explained", [0.5, 1.0])
def test_first_probes_explain_their_share_of_the_straightest_block(explained):
    r, straight = draw(7), draw(10, 7, seed=2)
    straight[:, 5:] = 0  # a block that nothing moves
    scale = perturbation_scale(r, straight, [3, 2, 2], explained)
    moved = [
        (scale * s).square().mean().sqrt() / b.square().mean().sqrt()
        for s, b in zip(straight.split([3, 2, 2], 1), r.split([3, 2, 2]), strict=True)
    ]
    assert float(max(moved)) == pytest.approx(explained)


def test_a_share_of_each_variance_is_its_block_s_mean():
    variance = draw(5).square()
    for pool in (0.0, 0.3, 1.0):
        found = shrink_to_block_mean(variance, [2, 3], pool)
        for new, old in zip(found.split([2, 3]), variance.split([2, 3]), strict=True):
            torch.testing.assert_close(new - old.mean(), (1 - pool) * (old - old.mean()))
