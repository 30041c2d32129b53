import pytest
import torch
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.priors import Denoiser, Gaussian, TotalVariation, load, save
from leakage_audit.priors.training import learn_denoiser
from leakage_audit.priors.unet import UNet
from leakage_audit.scores.metrics import score

SIZE = 8


def waves(count, seed=0):
    """Smooth colours of drawn amplitudes: exactly Gaussian, and as likely as their mirror images."""
    generator = torch.Generator().manual_seed(seed)
    t = (torch.arange(SIZE) + 0.5) * torch.pi / SIZE
    basis = torch.stack([torch.outer(torch.cos(i * t), torch.cos(j * t)) for i in range(4) for j in range(4)])
    decay = torch.tensor([1.0 / (1 + i + j) for i in range(4) for j in range(4)])
    amplitudes = 0.12 * decay * torch.randn(count, 3, 16, generator=generator)
    return 0.5 + torch.einsum("ncw,whv->nchv", amplitudes, basis)


class Wiener(nn.Module):
    """The best denoiser of a Gaussian, in closed form."""

    channels = 3

    def __init__(self, mean, covariance):
        super().__init__()
        self.mean, self.covariance = mean.flatten(), covariance

    def forward(self, noisy, sigma):
        noise = torch.eye(len(self.mean), dtype=torch.float64) * float(sigma[0]) ** 2
        gain = torch.linalg.solve(self.covariance + noise, self.covariance)
        return (self.mean + (noisy.double().flatten(1) - self.mean) @ gain).reshape(noisy.shape)


@pytest.fixture(scope="module")
def public():
    return waves(400)


def test_slope_and_curvature_are_those_of_the_docstring():
    torch.manual_seed(0)
    network = UNet(3, 8)
    nn.init.normal_(network.last.weight, std=0.1)
    prior, image = Denoiser(network, sigma=0.1, beside=0.5), waves(1).double()
    gaussian, precision = prior.local_gaussian(image), TotalVariation().local_gaussian(image).precision_matrix()
    n = image.numel()
    eye = torch.eye(n, dtype=torch.float64)
    smoothed = torch.linalg.inv(torch.linalg.inv(precision) + 0.01 * eye)
    raised = prior.caution * torch.linalg.inv(eye + 0.01 * precision) / 0.01
    curvature = 0.5 * precision + smoothed + raised
    torch.testing.assert_close(
        gaussian.precision_matrix(), curvature, rtol=1e-6, atol=1e-6 * float(curvature.abs().max())
    )
    torch.testing.assert_close(gaussian.covariance(curvature), eye, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gaussian.covariance(eye).diagonal(), gaussian.variance)
    offset = image.flatten()
    slope = 0.5 * precision @ (offset - 0.5) + (image - prior.denoise(image)).flatten() / 0.01
    found = curvature @ (offset - gaussian.mean)
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))


def test_with_the_denoiser_of_a_gaussian_the_attack_finds_what_the_gaussian_finds(public):
    # The best denoiser's slope is that of N(µ, C + σ²I): the most probable image on the equations has a closed form.
    sigma, (image,) = 0.05, waves(1, seed=1)
    gaussian = Gaussian.fit(public)
    torch.manual_seed(0)
    seen = observe(build("cnn2_v2", image_size=SIZE), image, 1, mean=0.5).to(torch.float64)
    equations = peel_layers(seen, 1e-9)
    r, jacobian = equations.linearize(torch.full((image.numel(),), 0.5, dtype=torch.float64), 1e8)
    covariance = gaussian.covariance + sigma**2 * torch.eye(image.numel(), dtype=torch.float64)
    mean = gaussian.mean.flatten()
    gain = covariance @ jacobian.T @ torch.linalg.pinv(jacobian @ covariance @ jacobian.T, hermitian=True, rtol=1e-10)
    expected = mean + gain @ (jacobian @ (0.5 - mean) - r)

    prior = Denoiser(Wiener(gaussian.mean, gaussian.covariance), sigma, beside=1e-4)
    attack = Joint(prior, max_steps=60)
    found = attack(seen).images.flatten()
    start = (mean - expected).square().mean().sqrt()
    assert float((found - expected).square().mean().sqrt()) < 0.1 * float(start)


def test_learns(public):
    denoiser, psnr = learn_denoiser(
        public, waves(50, seed=2), epochs=12, width=8, batch_size=25, accelerator="cpu", enable_progress_bar=False
    )
    assert psnr["0.1"] > 21.5  # the noisy images have 20 dB
    assert psnr["0.2"] > 16  # 14 dB
    assert not denoiser.network.training


def test_is_read_as_it_was_written(tmp_path):
    torch.manual_seed(0)
    prior = Denoiser(UNet(1, 8))
    nn.init.normal_(prior.network.last.weight)
    save(prior, tmp_path / "prior.pt")
    image = torch.rand(2, 1, 7, 9, dtype=torch.float64)
    assert torch.equal(load(tmp_path / "prior.pt").denoise(image), prior.denoise(image))


def test_mirror_images_are_treated_alike():
    torch.manual_seed(0)
    prior, image = Denoiser(UNet(3, 8)), waves(1).double()
    nn.init.normal_(prior.network.last.weight)
    torch.testing.assert_close(prior.denoise(image.flip(-1)), prior.denoise(image).flip(-1))


def test_joint_takes_the_file(tmp_path, public):
    denoiser, _ = learn_denoiser(
        public, public[:50], epochs=2, width=8, batch_size=25, accelerator="cpu", enable_progress_bar=False
    )
    save(denoiser, tmp_path / "prior.pt")
    torch.manual_seed(0)
    (image,) = waves(1, seed=1)
    seen = observe(build("cnn2_v2", image_size=SIZE), image, 1, mean=0.5)
    found = Joint(prior=str(tmp_path / "prior.pt"))(seen)
    assert found.succeeded
    assert score(found.images, image[None]).psnr[0] > 20


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match="sigma and beside"):
        Denoiser(UNet(3, 8), sigma=0.0)
    with pytest.raises(ValueError, match="1 channels, not of 3"):
        Denoiser(UNet(1, 8)).local_gaussian(waves(1).double())
    with pytest.raises(ValueError, match="batch takes 64"):
        learn_denoiser(waves(20), waves(5), epochs=1)
    torch.save({"weights": 1}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no prior")
    for name in ("other.pt", "text.pt"):
        with pytest.raises(ValueError, match="holds no prior"):
            load(tmp_path / name)
