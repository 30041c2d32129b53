"""A prior that the package does not know, with a mean and a product only, in both solvers and in the attack."""

import json

import pytest
import torch
from cases import draw, smooth_picture
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.priors import Denoiser, Gaussian, LocalGaussian, Tikhonov, TotalVariation
from leakage_audit.priors.unet import UNet
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import gauss_newton
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.options import CGOptions, SolverOptions


class Diagonal:
    """Independent pixels, the right ones better known."""

    def __init__(self, mean=0.4):
        self.mean = mean

    def local_gaussian(self, image):
        return _Diagonal(image, self.mean)


class _Diagonal(LocalGaussian):
    def __init__(self, image, mean):
        super().__init__(image)
        self._mean, self.weights = mean, torch.linspace(5, 20, image.shape[-1]).to(image).expand_as(image).flatten()

    @property
    def mean(self):
        return torch.full_like(self.weights, self._mean)

    def precision(self, v):
        return self.weights * v


@pytest.fixture(scope="module")
def equations():
    """Linear, fewer than unknowns, so that the answer has a closed form."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 36, 5)).double()
    seen = observe(network, 0.5 + 0.2 * draw(1, 3, 8, 8), 2, mean=0.5)
    found = peel_layers(seen, relative_error_of(torch.float64))
    assert found.linear
    return found


def test_what_the_gaussian_makes_of_its_mean_and_product():
    image = draw(1, 3, 4, 4)
    gaussian, eye = _Diagonal(image, 0.4), torch.eye(48, dtype=torch.float64)
    torch.testing.assert_close(gaussian.precision_matrix(), torch.diag(gaussian.weights))
    torch.testing.assert_close(gaussian.covariance(eye), torch.diag(1 / gaussian.weights))
    torch.testing.assert_close(gaussian.variance, 1 / gaussian.weights)
    torch.testing.assert_close(gaussian.gradient, gaussian.weights * (image.flatten() - 0.4))
    assert gaussian.level == pytest.approx(float(gaussian.weights.mean()))
    torch.testing.assert_close(gaussian.preconditioner(3.0)(eye[0]), eye[0] / (gaussian.level + 3))


def test_both_solvers_find_the_closed_form(equations):
    r, jacobian = equations.linearize(torch.zeros(192, dtype=torch.float64), 1e9)
    cover = torch.diag(1 / _Diagonal(draw(1, 3, 8, 8), 0.4).weights)
    mean = torch.full((192,), 0.4, dtype=torch.float64)
    gain = cover @ jacobian.T @ torch.linalg.pinv(jacobian @ cover @ jacobian.T, hermitian=True, rtol=1e-12)
    expected = mean - gain @ (r + jacobian @ mean)
    dense = gauss_newton(equations, Diagonal(), 30, 1e9, Budget())
    assert dense.solved
    torch.testing.assert_close(dense.image, expected, rtol=0, atol=1e-4)
    exact = SolverOptions(cg=CGOptions(products=400, exactness=1e-8))
    free = gauss_newton_cg(equations, Diagonal(), 30, 1e9, Budget(), options=exact)
    assert free.solved
    torch.testing.assert_close(free.image, expected, rtol=0, atol=0.01)


def learned():
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(3, 8), sigma=0.05)
    nn.init.normal_(denoiser.network.last.weight, std=0.05)
    images = 0.5 + 0.2 * draw(60, 3, 12, 12)
    alone, product = (Gaussian.fit(images, beside, loading=0.03) for beside in (None, TotalVariation()))
    return {"gaussian": alone, "product": product, "denoiser": denoiser}


PRIORS = {"diagonal": Diagonal(), "tikhonov": Tikhonov(), "tv": TotalVariation()} | learned()


@pytest.mark.parametrize("name", PRIORS)
def test_parts_agree(name):
    image, v = 0.5 + 0.1 * draw(2, 3, 12, 12, seed=3), draw(864, seed=4)
    gaussian = PRIORS[name].local_gaussian(image)
    matrix = gaussian.precision_matrix()
    if name != "denoiser":  # whose curvature is a stand-in, and another one without matrices
        torch.testing.assert_close(gaussian.precision(v), matrix @ v, rtol=1e-8, atol=1e-8 * float(matrix.abs().max()))
    slope = matrix @ (image.flatten() - gaussian.mean)
    torch.testing.assert_close(gaussian.gradient, slope, rtol=1e-6, atol=1e-6 * float(slope.abs().max()))
    back = gaussian.preconditioner(2.0)
    w = draw(864, seed=5)
    assert float(v @ back(w)) == pytest.approx(float(w @ back(v)), rel=1e-6)
    assert float(v @ back(v)) > 0
    assert float(v @ gaussian.precision(v)) > 0
    if name in ("gaussian", "tikhonov"):
        torch.testing.assert_close(back(gaussian.precision(v) + 2 * v), v)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("memory", [2.0, 1e-3], ids=["jacobian", "none"])
def test_joint_takes_the_object_at_any_size(name, memory):
    torch.manual_seed(10)
    seen = observe(build("cnn2_v2", image_size=12), smooth_picture(), 3, mean=0.5)
    found = Joint(PRIORS[name], max_steps=40, max_memory_gb=memory)(seen)
    assert (found.details["rank"] is None) == (memory < 1)
    assert found.residual < 0.05
    assert json.loads(json.dumps(found.settings))["prior"]["class"].endswith(type(PRIORS[name]).__name__)
