import pytest
import torch
from cases import draw

from leakage_audit.priors import TotalVariation
from leakage_audit.solvers.gaussian_update import GaussianUpdate


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
