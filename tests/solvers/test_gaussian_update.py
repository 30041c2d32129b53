import pytest
import torch
from cases import draw

from leakage_audit.priors import TotalVariation
from leakage_audit.solvers.gaussian_update import GaussianUpdate, rank


@pytest.mark.parametrize("m", [20, 60])
def test_draws_have_the_posterior_s_covariance(m):
    image = draw(27)
    gaussian = TotalVariation().local_gaussian(0.5 + 0.1 * draw(1, 3, 3, 3, seed=9))
    jacobian, noise = draw(m, 27, seed=2), draw(m, seed=4).square() + 0.1
    step = GaussianUpdate(image, draw(m, seed=3), jacobian, noise, gaussian)
    draws = step.sample(100_000, torch.Generator().manual_seed(0))
    posterior = torch.linalg.inv(jacobian.T @ (jacobian / noise[:, None]) + gaussian.precision_matrix())
    scale = posterior.diagonal().sqrt()
    assert float((draws.mean(0) / scale).abs().max()) < 0.02
    found = draws.T @ draws / len(draws) / scale / scale[:, None]
    torch.testing.assert_close(found, posterior / scale / scale[:, None], rtol=0.0, atol=0.03)


def test_rank():
    product = draw(20, 7) @ draw(7, 30, seed=2)
    assert rank(product, 1e-6) == rank(product.T, 1e-6) == 7
    assert rank(torch.zeros(3, 4, dtype=torch.float64), 1e-6) == 0


def test_rank_counts_singular_values_down_to_a_share_of_the_largest():
    u, v = (torch.linalg.qr(draw(8, 8, seed=seed))[0] for seed in (1, 2))
    values = torch.tensor([5.0, 5e-1, 5e-2, 5e-5, 5e-7, 5e-9, 0, 0], dtype=torch.float64)
    matrix = (u * values) @ v
    assert [rank(matrix, tolerance) for tolerance in (1e-3, 1e-6)] == [3, 4]
