"""Unknowns that are 0 or 1 against the sum over all their values."""

from itertools import product

import pytest
import torch
from cases import draw

from leakage_audit.solvers.binary_propagation import propagate_binary

K = 6


def enumerated(precision, shift, odds):
    values = torch.tensor(list(product([0.0, 1.0], repeat=K)), dtype=torch.float64)
    log = (
        values @ shift
        - ((values @ precision) * values).sum(1) / 2
        + (values @ odds.log() + (1 - values) @ (1 - odds).log())
    )
    weights = torch.softmax(log, 0)
    return weights @ values


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("noise", "error"), [(0.3, 0.02), (2.0, 0.1)], ids=["told", "hardly told"])
def test_the_means_are_those_of_all_values(seed, noise, error):  # propagation is least exact where little is told
    a, true = draw(12, K, seed=seed), (draw(K, 1, seed=seed + 50)[:, 0] > 0).double()
    y = a @ true + noise * draw(12, 1, seed=seed + 100)[:, 0]
    odds = torch.sigmoid(draw(K, 1, seed=seed + 200)[:, 0])
    precision, shift = a.T @ a / noise**2, a.T @ y / noise**2
    mean, covariance = propagate_binary(precision, shift, odds, rounds=40, damping=0.5, jitters=(0.0, 1e-12))
    torch.testing.assert_close(mean, enumerated(precision, shift, odds), atol=error, rtol=0)
    assert (torch.linalg.eigvalsh(covariance) > 0).all()


def test_nothing_said_leaves_the_odds():
    odds = torch.tensor([0.2, 0.7], dtype=torch.float64)
    mean, covariance = propagate_binary(torch.zeros(2, 2).double(), torch.zeros(2).double(), odds, 5, 0.5, (0.0,))
    torch.testing.assert_close(mean, odds, atol=1e-3, rtol=0)
    torch.testing.assert_close(covariance.diagonal(), odds * (1 - odds), atol=1e-3, rtol=0)
