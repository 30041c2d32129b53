from contextlib import suppress

import pytest
import torch
from cases import draw, pictures
from torch import nn

from leakage_audit.attacks.cosine_tv import CosineTV
from leakage_audit.attacks.joint import Joint
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import Block, Equations, relative_error_of
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import CGOptions, SolverOptions
from leakage_audit.solvers.statistical_linearization import PointLinearization, StatisticalLinearization

EPS = relative_error_of(torch.float32)
TINY = 1e-3  # GB: no room for a Jacobian


def kinked():
    """Rectifiers whose average pooling hides which of them are on."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.LeakyReLU(0.2), nn.Conv2d(12, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(8 * 36, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def image():
    return pictures()[:, :, 8:24, 8:24].contiguous()


@pytest.fixture(scope="module")
def seen(image):
    return observe(kinked(), image, 3, mean=0.5)


@pytest.fixture(scope="module")
def found(seen):
    return Joint(max_memory_gb=TINY)(seen)


def psnr(images, image):
    return score(images, image).psnr[0]


class TestWarmStart:
    def test_beats_a_cold_one(self, seen, found, image):
        equations = AutogradEquations(seen.to(torch.float64), EPS)
        cold = gauss_newton_cg(equations, TotalVariation(), 30, 0.0, Budget())
        assert psnr(found.images, image) > psnr(cold.image.reshape(image.shape), image)

    def test_is_never_made_worse_by_its_own_objective(self, seen, found):
        warm = CosineTV(iterations=JointOptions().warm_start_steps)
        alone = warm(seen)
        assert warm.objective(seen, seen.to_input(found.images)) <= alone.residual * (1 + 1e-5)

    def test_says_how_it_ended(self, found):
        assert found.details["rank"] is None
        assert found.details["std"].isnan().all()
        assert not found.succeeded or "solved" in found.ended

    def test_keeps_the_start_where_steps_do_not_help(self, seen, monkeypatch):
        monkeypatch.setattr(CosineTV, "objective", lambda *_: float("inf"))
        kept = Joint(max_memory_gb=TINY, max_steps=1)(seen)
        assert torch.equal(kept.images.float(), CosineTV(iterations=JointOptions().warm_start_steps)(seen).images)
        assert not kept.succeeded
        assert "no step" in kept.ended

    def test_time_and_random_numbers(self, seen):
        stream = torch.get_rng_state()
        with suppress(OutOfTime):  # before there is anything to give back
            short = Joint(max_memory_gb=TINY)(seen, Budget(0.3))
            assert not short.succeeded
            assert torch.isfinite(short.images).all()
        assert torch.equal(stream, torch.get_rng_state())


class Absolute(Equations):
    """`|A x − b| = c`: a kink each."""

    def __init__(self, seen, truth):
        self._a, self._b = draw(400, truth.numel(), seed=5), 0.1 * draw(400, seed=6)
        self._b += self._a.sum(1) / 2
        super().__init__(seen, [Block("absolute", (self._a @ truth.flatten() - self._b).abs(), 1e-7)])

    @property
    def memory_estimate(self):
        return 1000

    def values(self, image):
        return [(self._a @ image.flatten() - self._b).abs()]


class TestAverages:
    def test_of_a_linear_function_are_the_function(self, seen):
        equations = Absolute(seen.to(torch.float64), torch.full((3, 16, 16), 0.5, dtype=torch.float64))
        image = torch.full((768,), 5.0, dtype=torch.float64) * equations._a[0].sign()
        equations._a = equations._a[:1].expand(400, -1)  # far from every kink
        r = equations.residual(image)
        near, straight = (
            local_gaussian(equations)(image, r) for local_gaussian in (StatisticalLinearization, PointLinearization)
        )
        perturbation, weight = draw(768, seed=7), draw(400, seed=8)
        torch.testing.assert_close(near.jvp(perturbation), straight.jvp(perturbation))
        torch.testing.assert_close(near.vjp(weight), straight.vjp(weight))
        torch.testing.assert_close(near.jvp(perturbation) @ weight, perturbation @ near.vjp(weight))
        assert near.variance.max() < 1e-12

    def test_a_kink_within_reach_costs_trust(self, seen):
        equations = Absolute(seen.to(torch.float64), pictures()[0, :, :16, :16].double())
        equations._b[:200] += 100  # far from their kinks, those of the others within reach
        image = torch.full((768,), 0.5, dtype=torch.float64)
        near = StatisticalLinearization(equations)(image, equations.residual(image))
        assert near.variance[200:].mean() > 5 * near.variance[:200].mean()

    def test_memory_decides(self, seen):
        equations = Absolute(seen.to(torch.float64), torch.full((3, 16, 16), 0.5, dtype=torch.float64))
        assert StatisticalLinearization.affordable(equations, 64_000, 8)
        assert not StatisticalLinearization.affordable(equations, 63_999, 8)


def test_what_turned_out_to_be_straight_is_trusted_more():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 5)).double()
    seen = observe(net, pictures()[:, :, 8:14, 8:14].double(), 2, mean=0.5)
    ends = []
    for least in (CGOptions().trust, CGOptions().least_trust):
        options = SolverOptions(cg=CGOptions(least_trust=least))
        ends.append(gauss_newton_cg(peel_layers(seen, EPS), TotalVariation(), 30, 0.0, Budget(), None, options))
    assert all(end.solved for end in ends)
    assert ends[1].steps < ends[0].steps
