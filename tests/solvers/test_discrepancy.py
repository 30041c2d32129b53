"""Trust in equations of known noise, against a linear Gaussian problem whose truth is drawn."""

import pytest
import torch

from leakage_audit.priors import LocalGaussian
from leakage_audit.solvers.discrepancy import Discrepancy
from leakage_audit.solvers.gaussian_update import GaussianUpdate
from leakage_audit.solvers.options import SolverOptions


class Known(LocalGaussian):
    """N(0.5, 1/weights)."""

    def __init__(self, weights):
        super().__init__(torch.full((1, 1, 1, len(weights)), 0.5, dtype=torch.float64))
        self._weights = weights

    @property
    def mean(self):
        return self.image.flatten()

    def precision(self, v):
        return self._weights * v


def problem(m, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(m, n, generator=generator, dtype=torch.float64)
    weights = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
    std = torch.rand(m, generator=generator, dtype=torch.float64) + 0.2
    return jacobian, weights, std, generator


def solve(jacobian, weights, std, target, trust):
    prior = Known(weights)
    at = prior.mean
    return GaussianUpdate(at, jacobian @ at - target, jacobian, trust * std**2, prior)


@pytest.mark.parametrize(("m", "n"), [(20, 40), (60, 30)], ids=["fewer equations", "more equations"])
def test_expected_squares_are_those_of_images_and_noise_that_are_drawn(m, n):
    jacobian, weights, std, generator = problem(m, n)
    squares = []
    for _ in range(3000):
        truth = 0.5 + torch.randn(n, generator=generator, dtype=torch.float64) / weights.sqrt()
        target = jacobian @ truth + std * torch.randn(m, generator=generator, dtype=torch.float64)
        step = solve(jacobian, weights, std, target, 1.0)
        squares.append(((jacobian @ step.image - target) / std).square())
    assert torch.allclose(torch.stack(squares).mean(0), step.expected_squares(), rtol=0.15, atol=0.01)
    # Their sum is m - gamma, gamma the trace of the influence matrix.
    gram = jacobian @ (jacobian / weights).T
    influence = gram @ torch.linalg.inv(gram + torch.diag(std**2))
    assert float(step.expected_squares().sum()) == pytest.approx(m - float(influence.trace()), rel=1e-8)


def settled(jacobian, weights, std, target, sizes):
    rule = Discrepancy(std, sizes, SolverOptions())
    for _ in range(60):
        step = solve(jacobian, weights, std, target, rule.trust)
        r = jacobian @ step.image - target
        if rule(r, step.expected_squares()):
            return rule, step, r
    raise AssertionError("never settles")


def test_a_prior_that_is_too_heavy_is_weakened_to_about_its_true_weight():
    jacobian, weights, std, generator = problem(200, 300)
    truth = 0.5 + torch.randn(300, generator=generator, dtype=torch.float64) / weights.sqrt()
    target = jacobian @ truth + 5 * std * torch.randn(200, generator=generator, dtype=torch.float64)
    rule, step, _ = settled(jacobian, 10 * weights, 5 * std, target, [200])
    assert 0.05 < float(rule.trust.mean()) < 0.2  # a tenth of the noise against ten times the prior
    heavy = solve(jacobian, 10 * weights, 5 * std, target, 1.0)
    assert (step.image - truth).norm() < (heavy.image - truth).norm()


def test_one_equation_that_is_off_beside_many_that_fit_is_met():
    """The last equation alone sees the last unknown, of which the prior is far too sure."""
    jacobian, weights, std, generator = problem(200, 300)
    jacobian[:-1, -1], jacobian[-1], jacobian[-1, -1] = 0, 0, 1
    truth = 0.5 + torch.randn(300, generator=generator, dtype=torch.float64) / weights.sqrt()
    truth[-1], weights[-1], std[-1] = 1.5, 80.0, 0.1
    target = jacobian @ truth + std * torch.randn(200, generator=generator, dtype=torch.float64)
    plain = solve(jacobian, weights, std, target, 1.0)
    assert abs(float((jacobian @ plain.image - target)[-1] / std[-1])) > 3.5
    rule, off = Discrepancy(std, [199, 1], SolverOptions()), []
    for _ in range(40):
        step = solve(jacobian, weights, std, target, rule.trust)
        r = jacobian @ step.image - target
        rule(r, step.expected_squares())
        off.append(abs(float(r[-1] / std[-1])))
    assert sum(off[-10:]) / 10 < 2.5
    assert rule.trust[-1] < rule.trust[0] / 2
