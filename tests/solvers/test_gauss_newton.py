import pytest
import torch
from cases import Residual, smooth_picture
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.equations.base import relative_error_of, rms
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.scores.metrics import score
from leakage_audit.solvers import gauss_newton


def rectified(activation):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), activation, nn.Conv2d(12, 8, 3), activation, nn.Flatten(), nn.Linear(8 * 64, 10)
    )


NETWORKS = {
    "relu": lambda: rectified(nn.ReLU()),
    "leaky": lambda: rectified(nn.LeakyReLU(0.2)),
    "residual": lambda: Residual(torch.relu),
}


def see(name, seed=10):
    torch.manual_seed(seed)
    return observe(NETWORKS[name](), smooth_picture(), 3, mean=0.5)


def equations(name="leaky"):
    return peel_layers(see(name).to(torch.float64), relative_error_of(torch.float32))


def run(budget=None, max_steps=30, name="leaky"):
    return gauss_newton.gauss_newton(equations(name), TotalVariation(), max_steps, 1e9, budget or Budget())


class Ticking(Budget):
    """A clock that advances by one each time it is looked at."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.looks = 0

    @property
    def spent(self):
        self.looks += 1
        return float(self.looks)


class TestKinks:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_solved_and_says_so(self, name):
        found = Joint()(see(name))
        assert "equations solved" in found.ended
        assert score(found.images, smooth_picture()).psnr[0] > 40

    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_gradient_of_another_network_is_not_solved(self, name):
        seen, other = see(name), see(name, seed=11)
        for key, gradient in other.gradients.items():
            seen.gradients[key].copy_(gradient)
        found = Joint(max_steps=2)(seen)
        assert "equations solved" not in found.ended
        assert torch.isfinite(found.images).all()

    def test_the_same_twice(self):
        assert torch.equal(run().image, run().image)


class TestBest:
    def test_a_step_that_leads_away_is_not_kept(self, monkeypatch):
        right = run()
        calls = []

        def astray(equations, image, r, goal, noise, solved, shares):
            calls.append(goal)
            new = right.image if len(calls) == 2 else torch.rand_like(image, generator=None)
            return 0.125, new, equations.residual(new)

        monkeypatch.setattr(gauss_newton, "backtrack", astray)
        with torch.random.fork_rng():
            found = run()
        assert len(calls) > 2
        assert not found.solved
        assert torch.equal(found.image, right.image)
        assert torch.equal(found.r, right.r)

    @pytest.mark.parametrize("steps", [1, 2])
    def test_few_steps(self, steps):
        found = run(max_steps=steps, name="relu")
        assert found.steps == steps
        assert not found.solved
        assert f"{steps} steps" in found.ended


class TestTime:
    @pytest.mark.parametrize("seconds", [1, 4])
    def test_up_before_the_start_is_known_there_is_nothing_to_give_back(self, seconds):
        with pytest.raises(OutOfTime):
            run(Ticking(seconds), name="relu")

    @pytest.mark.parametrize("seconds", [8, 12, 16, 24, 40])
    def test_whenever_it_is_up_the_best_so_far_comes_back(self, seconds):
        grey = equations("relu")
        before = rms(grey.residual(gauss_newton.initial_guess(grey)))
        found = run(Ticking(seconds), name="relu")
        assert torch.isfinite(found.image).all()
        assert rms(found.r) <= before
        if not found.solved:
            assert found.ended == "the time was up"
            assert found.rank is None

    def test_no_step_is_begun_that_will_not_fit(self, monkeypatch):
        class Clock(Budget):
            now = 0.0

            @property
            def spent(self):
                return self.now

        budget = Clock(10.0)
        original = gauss_newton.backtrack

        def slow(*arguments):
            budget.now += 4.0
            return original(*arguments)

        monkeypatch.setattr(gauss_newton, "backtrack", slow)
        found = run(budget, name="relu")
        assert found.steps == 2
        assert budget.now == 8.0
        assert found.ended == "the time was up"
