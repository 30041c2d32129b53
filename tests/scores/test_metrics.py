"""The scores against plain numpy, brute-force matching and known values."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import structural_similarity_index_measure

from leakage_audit.scores.metrics import chance_floor, score


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_ssim(a, b, reach=5, sigma=1.5):
    """SSIM straight from Wang et al. 2004: a weighted mean and variance in every window within the image."""
    t = np.arange(-reach, reach + 1)
    weights = np.exp(-(t[:, None] ** 2 + t[None] ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    total = []
    for x, y in zip(a, b, strict=True):
        for i, j in itertools.product(range(a.shape[1] - 2 * reach), range(a.shape[2] - 2 * reach)):
            p, q = (image[i : i + 2 * reach + 1, j : j + 2 * reach + 1] for image in (x, y))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            total.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(total))


def scikit_image_ssim(a, b):
    """As `skimage.metrics.structural_similarity` computes it, edges cut off by five pixels.

    Its settings: gaussian_weights, sigma 1.5, use_sample_covariance False, data_range 1, channel_axis 0.
    """
    found = []
    for x, y in zip(a, b, strict=True):
        mx, my, xx, yy, xy = (gaussian_filter(z, 1.5, truncate=3.5) for z in (x, y, x * x, y * y, x * y))
        vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
        ssim = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        found.append(ssim[5:-5, 5:-5].mean())
    return float(np.mean(found))


@pytest.mark.parametrize("size", [(11, 11), (12, 20), (32, 32), (64, 48)])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_ssim_is_scikit_images(size, noise):
    truth = draw(3, *size)
    image = truth + noise * (draw(3, *size, seed=1) - 0.5)
    assert score(image, truth).ssim == pytest.approx([scikit_image_ssim(image.numpy(), truth.numpy())], abs=1e-4)


def test_single_image_agrees_with_numpy():
    truth, image = draw(3, 13, 12), draw(3, 13, 12, seed=1) * 1.4 - 0.2  # leaves [0, 1]: must not be clipped
    found = score(image, truth)
    mse = float(np.mean((image.numpy() - truth.numpy()) ** 2))
    assert found.mse == pytest.approx([mse], rel=1e-12)
    assert found.psnr == pytest.approx([-10 * math.log10(mse)], abs=1e-5)
    assert found.psnr_255 == pytest.approx([20 * math.log10(255) - 10 * math.log10(mse)], abs=1e-5)
    assert found.ssim == pytest.approx([numpy_ssim(image.numpy(), truth.numpy())], abs=1e-9)
    assert found.order == [0]


@pytest.mark.parametrize("size", [3, 5, 6, 10])
def test_ssim_of_a_small_image_uses_the_widest_odd_window(size):
    truth, image = draw(3, size, size + 2), draw(3, size, size + 2, seed=1)
    reach = (size - 1) // 2
    expected = numpy_ssim(image.numpy(), truth.numpy(), reach, reach / 3.5)
    assert score(image, truth).ssim == pytest.approx([expected], abs=1e-9)


def test_ssim_of_a_single_pixel_is_the_luminance_term():
    found = score(torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), 0.6))
    assert found.ssim == pytest.approx([(2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)], rel=1e-6)


def test_exact_reconstruction_is_capped_and_not_infinite():
    found = score(draw(2, 3, 16, 16), draw(2, 3, 16, 16))
    assert found.mse == [0.0, 0.0]
    assert found.psnr == [300.0, 300.0]
    assert found.ssim == pytest.approx([1.0, 1.0])


def test_scores_far_above_100_db_keep_their_digits():
    truth = draw(3, 16, 16)
    assert score(truth + 1e-8, truth).psnr == pytest.approx([160.0], abs=1e-4)


def test_matching_finds_the_order_and_scores_follow_the_reconstructions():
    truth = draw(5, 3, 11, 11)
    order = [3, 0, 4, 1, 2]
    noise = torch.tensor([1e-2, 2e-2, 3e-2, 4e-2, 5e-2]).view(-1, 1, 1, 1)
    found = score(truth[order] + noise, truth)
    assert found.order == order
    assert found.mse == pytest.approx([1e-4, 4e-4, 9e-4, 16e-4, 25e-4], rel=1e-6)


@pytest.mark.parametrize("guesses", [2, 3, 4])
def test_matching_is_the_best_of_all_one_to_one_matchings(guesses):
    images, truth = draw(guesses, 1, 4, 4, seed=7), draw(4, 1, 4, 4, seed=8)
    best = min(
        itertools.permutations(range(4), guesses),
        key=lambda order: sum(float((images[i] - truth[j]).square().mean()) for i, j in enumerate(order)),
    )
    assert score(images, truth).order == list(best)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e200])
def test_a_reconstruction_that_is_not_finite_scores_worst_and_spoils_no_other(bad):
    truth = draw(3, 3, 12, 12)
    images = truth[[2, 0, 1]] + 1e-3
    images[1, 0, 0, 0] = bad
    found = score(images, truth)
    assert found.order == [2, 0, 1]
    assert (found.mse[1], found.psnr[1], found.ssim[1]) == (1e30, -300.0, -1.0)
    assert [found.psnr[0], found.psnr[2]] == pytest.approx([60.0, 60.0], abs=1e-4)


def test_a_diverged_reconstruction_takes_the_truth_that_is_left():
    truth = draw(3, 3, 12, 12)
    images = truth[[1, 2, 0]].clone()
    images[2] = 1e12 * draw(3, 12, 12, seed=9)
    assert score(images, truth).order[:2] == [1, 2]


def test_chance_floor_scores_the_mean_image_against_each_truth_in_its_place():
    truth = torch.stack([torch.full((3, 12, 12), v, dtype=torch.float64) for v in (0.1, 0.9, 0.4)])
    found = chance_floor(torch.full((3, 12, 12), 0.2), truth)
    assert found.mse == pytest.approx([0.01, 0.49, 0.04], rel=1e-6)
    assert found.order == [0, 1, 2]


def test_chance_floor_without_a_data_set_is_mid_grey():
    assert chance_floor(None, torch.zeros(3, 8, 8)).mse == [0.25]


def test_scoring_changes_neither_its_arguments_nor_the_global_random_stream():
    images, truth = draw(2, 3, 12, 12).float(), draw(2, 3, 12, 12, seed=1).float()
    before, state = images.clone(), torch.get_rng_state()
    score(images.requires_grad_(), truth)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("images", "truth", "message"),
    [
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 9), r"\(3, 8, 8\) and \(3, 8, 9\)"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), r"\(3, 8, 8\) and \(1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8), "2 for 1"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(3, 8, 8), r"images must be .* \(0, 3, 8, 8\)"),
        (torch.zeros(8, 8), torch.zeros(3, 8, 8), r"images must be .* \(8, 8\)"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), "truth must be floating point .* torch.uint8"),
    ],
)
def test_shapes_that_do_not_fit_are_named(images, truth, message):
    with pytest.raises(ValueError, match=message):
        score(images, truth)


def test_mean_image_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), got \(3, 4, 4\)"):
        chance_floor(torch.zeros(3, 4, 4), torch.zeros(3, 8, 8))


@pytest.mark.parametrize("size", [(40, 33), (11, 50), (32, 32)])
def test_ssim_is_torchmetrics_without_its_mirrored_margin(size):
    truth = draw(2, 3, *size)
    images = truth + 0.3 * draw(2, 3, *size, seed=1)
    _, around = structural_similarity_index_measure(
        images, truth, data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    assert score(images, truth).ssim == pytest.approx(around[:, :, 5:-5, 5:-5].mean((1, 2, 3)).tolist(), abs=1e-12)


def test_what_is_not_finite_has_the_worst_ssim_and_no_warning():
    truth, image = draw(3, 12, 12), draw(3, 12, 12, seed=1)
    image[0, 3, 3] = torch.inf
    assert score(image, truth).ssim == [-1.0]
