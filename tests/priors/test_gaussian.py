import pytest
import torch

from leakage_audit.attacks.joint import Joint
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.priors import Gaussian, TotalVariation, save
from leakage_audit.scores.metrics import score


def landscapes(count, size=10, seed=0):
    """Smooth colours whose amplitudes are drawn: exactly Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 3, size), torch.linspace(0, 3, size), indexing="ij")
    waves = torch.stack([torch.cos(i * x) * torch.cos(j * y) / (1 + i + j) for i in range(4) for j in range(4)])
    return 0.5 + 0.1 * torch.einsum("ncw,whv->nchv", torch.randn(count, 3, 16, generator=generator), waves)


def test_fits_mean_and_covariance_of_images_and_mirror_images():
    images = landscapes(300, size=4)
    rows = torch.cat([images, images.flip(-1)]).double().flatten(1)
    prior = Gaussian.fit(images, loading=1e-3)
    torch.testing.assert_close(prior.mean.flatten(), rows.mean(0))
    expected = torch.cov(rows.T, correction=0) + 1e-3 * torch.eye(48, dtype=torch.float64)
    torch.testing.assert_close(prior.covariance, expected)


@pytest.mark.parametrize("beside", [None, TotalVariation()], ids=["alone", "beside"])
@pytest.mark.parametrize("size", [1, 2])
def test_belief_is_consistent(beside, size):
    gaussian = Gaussian.fit(landscapes(50, size=4), beside).local_gaussian(landscapes(size, size=4).double())
    eye = torch.eye(48 * size, dtype=torch.float64)
    covariance = gaussian.covariance(eye)
    torch.testing.assert_close(covariance @ gaussian.precision_matrix(), eye, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(covariance.diagonal(), gaussian.variance)


def test_knowing_the_images_helps(tmp_path):
    *public, image = landscapes(400)
    save(Gaussian.fit(public), tmp_path / "prior.pt")
    torch.manual_seed(0)
    seen = observe(build("cnn3_v2", image_size=10), image, 1, mean=0.5)
    informed, blind = (
        score(Joint(prior=p)(seen).images, image[None]).psnr[0] for p in (str(tmp_path / "prior.pt"), "none")
    )
    assert informed > blind + 3


def test_refuses():
    with pytest.raises(ValueError, match="no images"):
        Gaussian.fit([])
    with pytest.raises(ValueError, match="one shape"):
        Gaussian.fit([torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)])
    with pytest.raises(ValueError, match="needs a covariance"):
        Gaussian(torch.zeros(3, 2, 2), torch.eye(5))
    with pytest.raises(ValueError, match="positive definite"):
        Gaussian(torch.zeros(1, 2, 2), -torch.eye(4))
    with pytest.raises(ValueError, match="knows images of"):
        Gaussian(torch.zeros(1, 2, 2), torch.eye(4)).local_gaussian(torch.zeros(1, 1, 3, 3))
