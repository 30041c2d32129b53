import pytest
import torch

from leakage_audit.priors import PRIORS, Tikhonov, TotalVariation, under_noise


def picture(size=1, channels=3, height=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, channels, height, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    "prior", [TotalVariation(), TotalVariation(chroma=1.0), Tikhonov()], ids=["colour", "plain", "none"]
)
@pytest.mark.parametrize("shape", [(1, 3, 6, 5), (2, 3, 4, 4), (1, 1, 5, 7), (1, 4, 4, 3)], ids=str)
def test_belief_is_consistent(prior, shape):
    gaussian = prior.local_gaussian(picture(*shape))
    n = gaussian.mean.numel()
    eye = torch.eye(n, dtype=torch.float64)
    covariance = gaussian.covariance(eye)
    torch.testing.assert_close(covariance @ gaussian.precision_matrix(), eye, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(covariance.diagonal(), gaussian.variance)
    torch.testing.assert_close(covariance, covariance.T)


def energy(image, prior):
    """The variation as the docstring writes it, one stencil at a time, by slicing."""
    grey = image.sum(1, keepdim=True) / 3**0.5
    red_green = (image[:, :1] - image[:, 1:2]) / 2**0.5
    yellow_blue = (image[:, :1] + image[:, 1:2] - 2 * image[:, 2:]) / 6**0.5
    u = torch.cat([grey, prior.chroma * red_green, prior.chroma * yellow_blue], 1)
    down, across = u.diff(dim=2), u.diff(dim=3)
    first = [down, across]
    second = [down.diff(dim=2), across.diff(dim=3), 2**0.5 * down.diff(dim=3)]
    total = 0.0
    for share, differences in ((1.0, first), (prior.second, second)):
        for d in differences:
            length = (d.square().sum(1) + prior.edge**2).sqrt() / prior.scale
            total = total + share * (length**prior.exponent).sum()
    return total


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.0])
def test_variation_touches_its_energy(exponent):
    # The quadratic ½ xᵀPx has the energy's gradient where it touches, up to the small pull to grey.
    prior = TotalVariation(exponent=exponent, chroma=3.0)
    image = picture().requires_grad_()
    (expected,) = torch.autograd.grad(energy(image, prior), image)
    gaussian = prior.local_gaussian(image.detach())
    found = gaussian.precision_matrix() @ (image.detach().flatten() - gaussian.mean)
    assert (found - expected.flatten()).norm() < 1e-3 * expected.norm()


def test_edges_cost_less_across_than_along_nothing():
    image = torch.full((1, 3, 8, 8), 0.2, dtype=torch.float64)
    image[..., 4:] = 0.8
    deviation = TotalVariation().local_gaussian(image).covariance
    jump, flat = torch.zeros(2, 1, 3, 8, 8, dtype=torch.float64)
    jump[0, :, 4, 4], jump[0, :, 4, 3] = 1, -1
    flat[0, :, 4, 6], flat[0, :, 4, 5] = 1, -1
    loose, tight = (float(row.flatten() @ deviation(row.reshape(1, -1))[0]) for row in (jump, flat))
    assert loose > 2 * tight


def test_every_named_prior_can_be_made():
    for make in PRIORS.values():
        assert make().local_gaussian(picture()).mean.shape == (90,)


@pytest.mark.parametrize("shape", [(1, 3, 6, 5), (2, 1, 4, 7)], ids=str)
def test_stiffness_is_the_precision(shape):
    prior, image, v = TotalVariation(), picture(*shape), picture(*shape, seed=1)
    expected = prior.local_gaussian(image).precision_matrix() @ v.flatten()
    found = prior.local_gaussian(image).precision(v.flatten())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_smooth_inverse_inverts_where_the_image_is_flat():
    # Second differences stop short of the border, where the transform's do not; a wave inside hardly notices.
    gaussian = TotalVariation().local_gaussian(torch.full((1, 3, 24, 24), 0.3, dtype=torch.float64))
    i = torch.arange(24, dtype=torch.float64)
    wave = torch.cos(torch.pi * 4 * (i[:, None] + 0.5) / 24) * torch.cos(torch.pi * 5 * (i + 0.5) / 24)
    v = wave.expand(1, 3, 24, 24).flatten()
    back = gaussian.preconditioner(100.0)(gaussian.precision(v) + 100 * v)
    assert (back - v).reshape(1, 3, 24, 24)[..., 3:-3, 3:-3].abs().max() < 0.05


@pytest.mark.parametrize("size", [12, 24])
def test_under_noise_a_brightness_is_as_uncertain_as_a_photographs(size):
    """Of whatever size the image is, and as dense matrix and as operator."""
    image = torch.rand(1, 3, size, size, dtype=torch.float64)
    gaussian = under_noise(TotalVariation()).local_gaussian(image)
    mean = torch.full((1, image.numel()), 1 / image.numel(), dtype=torch.float64)
    assert float(gaussian.covariance(mean) @ mean.T) ** 0.5 == pytest.approx(0.12, rel=1e-6)
    ones = torch.ones(image.numel(), dtype=torch.float64)
    assert torch.allclose(gaussian.precision(ones), gaussian.precision_matrix() @ ones)
    sure = TotalVariation().local_gaussian(torch.full_like(image, 0.5))
    assert float(sure.covariance(mean) @ mean.T) ** 0.5 < 0.09
    plain = Tikhonov()
    assert under_noise(plain) is plain
