"""Sites against moments that were integrated numerically."""

import math

import pytest
import torch
from scipy.stats import truncnorm

from leakage_audit.solvers.expectation_propagation import IntervalSites, truncated_moments

CASES = {
    "half": (0.3, 2.0, 0.0, math.inf),
    "other-half": (0.3, 2.0, -math.inf, 0.0),
    "inside": (0.1, 1.0, -0.5, 0.7),
    "far-above": (-8.0, 1.0, 1.0, math.inf),
    "far-below": (9.0, 1.0, -math.inf, -2.0),
    "narrow-and-far": (-6.0, 1.0, 2.0, 2.5),
    "wide": (0.0, 1.0, -math.inf, 40.0),
}


@pytest.mark.parametrize(("mean", "variance", "lower", "upper"), CASES.values(), ids=CASES)
def test_truncated_moments(mean, variance, lower, upper):
    std = math.sqrt(variance)
    oracle = truncnorm((lower - mean) / std, (upper - mean) / std, mean, std)
    given = (torch.tensor([x], dtype=torch.float64) for x in (mean, variance, lower, upper))
    found = [float(x) for x in truncated_moments(*given)]
    assert found[0] == pytest.approx(oracle.mean(), rel=1e-6, abs=1e-9)
    assert found[1] == pytest.approx(oracle.var(), rel=1e-3)


@pytest.mark.parametrize("noise", [0.0, 0.3], ids=["exact", "noisy"])
def test_three_intervals_on_two_unknowns(noise):
    """The posterior's mean and covariance to a few hundredths of those integrated over a grid."""
    j = torch.tensor([[1.0, 0.4], [-0.3, 1.0], [0.7, -0.8]], dtype=torch.float64)
    lower = torch.tensor([0.2, -math.inf, -0.6], dtype=torch.float64)
    upper = torch.tensor([math.inf, 0.5, 0.4], dtype=torch.float64)
    axis = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    y, std = x @ j.T, math.sqrt(noise)
    if noise:
        inside = torch.special.ndtr((upper - y) / std) - torch.special.ndtr((lower - y) / std)
    else:
        inside = ((y >= lower) & (y <= upper)).double()
    weights = (-x.square().sum(1) / 2).exp() * inside.prod(1)
    weights /= weights.sum()
    mean = weights @ x
    covariance = (x - mean).T @ ((x - mean) * weights[:, None])

    sites = IntervalSites(lower, upper, torch.ones(3, dtype=torch.float64))
    for _ in range(60):
        posterior = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + j.T @ (j / sites.variance[:, None]))
        centre = posterior @ j.T @ (sites.mean / sites.variance)
        sites.update(j @ centre, (j @ posterior @ j.T).diagonal(), torch.full((3,), noise, dtype=torch.float64))
    assert torch.allclose(centre, mean, atol=0.02)
    assert torch.allclose(posterior, covariance, atol=0.03)


def test_without_a_bound_an_equation_stays_as_it_is():
    free = torch.full((2,), math.inf, dtype=torch.float64)
    sites = IntervalSites(-free, free, torch.tensor([0.5, 2.0], dtype=torch.float64))
    sites.update(torch.ones(2).double(), torch.full((2,), 0.3).double(), torch.zeros(2).double())
    assert sites.mean.tolist() == [0.0, 0.0]
    assert sites.variance.tolist() == [0.5, 2.0]
