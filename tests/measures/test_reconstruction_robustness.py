import pytest
import torch

from leakage_audit.measures.reconstruction_robustness import mu_of_dp_sgd, reconstruction_bound, robustness_curve


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_the_bound_is_reached_by_the_best_test_between_two_gaussians(mu):
    """A secret bit pattern shared as N(µ, 1) or N(0, 1): the most powerful test at level κ has exactly this power."""
    torch.manual_seed(0)
    with_image, without = mu + torch.randn(200000), torch.randn(200000)
    for kappa in (0.01, 0.1, 0.5):
        threshold = without.quantile(1 - kappa)
        power = (with_image > threshold).float().mean()
        assert reconstruction_bound(kappa, mu) == pytest.approx(float(power), abs=0.01)


def test_its_ends():
    assert reconstruction_bound(0.0, 3.0) == 0.0
    assert reconstruction_bound(1.0, 3.0) == 1.0
    assert reconstruction_bound(0.2, 0.0) == pytest.approx(0.2)
    assert mu_of_dp_sgd(0.5) == 2.0
    with pytest.raises(ValueError, match="kappa must be a probability"):
        reconstruction_bound(1.2, 1.0)


def test_a_curve_tells_an_attack_that_went_beyond():
    guesses = torch.linspace(8, 16, 100).tolist()
    honest = robustness_curve(guesses, guesses[::2], mu=0.5)
    assert all(point.kept for point in honest)
    beyond = robustness_curve(guesses, [30.0] * 20, mu=0.5)
    assert not all(point.kept for point in beyond)
    with pytest.raises(ValueError, match="needs guesses and attacks"):
        robustness_curve([], [1.0], 1.0)
