"""How close a reconstruction comes to the truth: MSE, PSNR, SSIM. The only module that sees both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

PSNR_CAP = 300.0  # dB, either way: an exact reconstruction would score +inf, one that is not finite has no score
WORST_MSE = 10 ** (PSNR_CAP / 10)  # the MSE of -300 dB
PEAK_255 = 20 * math.log10(255)  # 48.13 dB, what Table 3's PSNR has above the ordinary one


@dataclass(frozen=True)
class Scores:
    """Scores image by image; entry i belongs to reconstruction i.

    A reconstruction that is not finite, or too far off for floating point, gets the worst score there is: MSE 1e30,
    PSNR -300 dB, SSIM -1.

    Attributes:
        mse: Mean squared error, images in [0, 1].
        psnr: Peak signal-to-noise ratio in dB, peak 1, within ±300 dB.
        psnr_255: The same in the paper's convention, `psnr + 20·log10(255)`, for setting beside its Table 3.
        ssim: Structural similarity (Wang et al. 2004), 1 for equal images.
        order: Which truth reconstruction i was compared with.
    """

    mse: list[float]
    psnr: list[float]
    psnr_255: list[float]
    ssim: list[float]
    order: list[int]


def score(images: Tensor, truth: Tensor) -> Scores:
    """Score reconstructions against the truth; nothing is clipped.

    The gradient of a batch says nothing of its order, so several reconstructions are matched one to one with the
    truths such that the total squared error is least (no single error counting as more than 1, the peak's).

    Args:
        images: Reconstructions `(B, C, H, W)` or `(C, H, W)`.
        truth: True images in [0, 1], `(T, C, H, W)` or `(C, H, W)`, at least as many as reconstructions.

    Raises:
        ValueError: If the shapes do not fit, or there are more reconstructions than truths.

    Example:
        >>> truth = torch.full((1, 3, 8, 8), 0.5)
        >>> round(score(truth + 0.1, truth).psnr[0], 3)
        20.0
    """
    images, truth = _batch(images, "images"), _batch(truth, "truth")
    if images.shape[1:] != truth.shape[1:]:
        raise ValueError(
            f"images and truth must agree in (C, H, W), got {tuple(images.shape[1:])} and {tuple(truth.shape[1:])}"
        )
    if not 1 <= len(images) <= len(truth):
        raise ValueError(
            f"need at least one reconstruction and at most one a truth, got {len(images)} for {len(truth)}"
        )
    order = _match(images, truth)
    return _score(images, truth[order], order)


def chance_floor(mean_image: Tensor | None, truth: Tensor) -> Scores:
    """What an attacker who saw no gradient would score, by guessing the data set's mean image every time.

    A reconstruction is worth something only as far as it is above this.

    Args:
        mean_image: `(C, H, W)` in [0, 1]; None guesses mid-grey, for want of a data set.
        truth: True images in [0, 1], `(T, C, H, W)` or `(C, H, W)`; entry i of the scores belongs to truth i.

    Raises:
        ValueError: If the mean image has another shape than a true image.

    Example:
        >>> truth = torch.full((1, 3, 8, 8), 0.6)
        >>> round(chance_floor(None, truth).psnr[0], 3)  # a mid-grey guess
        20.0
    """
    truth = _batch(truth, "truth")
    guess = torch.full_like(truth[0], 0.5) if mean_image is None else mean_image.detach().cpu().double()
    if guess.shape != truth.shape[1:]:
        raise ValueError(
            f"mean_image must have a true image's shape {tuple(truth.shape[1:])}, got {tuple(guess.shape)}"
        )
    return _score(guess.expand_as(truth), truth, list(range(len(truth))))


def _batch(images: Tensor, name: str) -> Tensor:
    """Any images as `(B, C, H, W)` in float64 on the CPU: scores of 150 dB and more need the digits."""
    if images.ndim not in (3, 4) or not images.is_floating_point() or images.numel() == 0:
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"{name} must be floating point of shape (B, C, H, W) or (C, H, W), got {found}")
    images = images.detach().cpu().double()
    return images[None] if images.ndim == 3 else images


def _match(images: Tensor, truth: Tensor) -> list[int]:
    """For each reconstruction the truth that the one-to-one matching of least total MSE gives it."""
    distance = torch.cdist(images.flatten(1), truth.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    mse = distance**2 / truth[0].numel()
    # Beyond an error of the peak itself a reconstruction resembles no truth: it takes what the others leave.
    return linear_sum_assignment(mse.nan_to_num(nan=1.0).clamp(max=1.0).numpy())[1].tolist()


def _score(images: Tensor, truth: Tensor, order: list[int]) -> Scores:
    """Score `images[i]` against `truth[i]`."""
    mse = (images - truth).square().mean((1, 2, 3))
    psnr = peak_signal_noise_ratio(images, truth, data_range=1.0, dim=(1, 2, 3), reduction="none")
    psnr = psnr.nan_to_num(nan=-PSNR_CAP).clamp(-PSNR_CAP, PSNR_CAP)
    return Scores(
        mse=mse.nan_to_num(nan=WORST_MSE, posinf=WORST_MSE).clamp(max=WORST_MSE).tolist(),
        psnr=psnr.tolist(),
        psnr_255=(psnr + PEAK_255).tolist(),
        ssim=_ssim(images, truth).nan_to_num(nan=-1.0).clamp(-1, 1).tolist(),
        order=order,
    )


def _ssim(images: Tensor, truth: Tensor) -> Tensor:
    """SSIM `(B,)` over all windows that lie within the image, as torchmetrics and scikit-image have it.

    The usual Gaussian window of 11 × 11 pixels, or the widest odd one that a small image holds; below 3 × 3 there is no
    window, only the pixel: SSIM's luminance term. A window that is applied along rows and then along columns takes a
    fortieth of the time of torchmetrics' (a second in place of forty at 2000 × 2000 pixels, and no memory to speak of).
    """
    reach = min(10, min(truth.shape[2:]) - 1) // 2
    # Cut at 3.5 standard deviations, so that sigma is what sets the window's width.
    average = partial(gaussian_filter, sigma=1.5 if reach == 5 else reach / 3.5, truncate=3.5, axes=(1, 2))
    inside = (slice(None), slice(reach, truth.shape[2] - reach), slice(reach, truth.shape[3] - reach))
    with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite
        found = [_ssim_of(x.numpy(), y.numpy(), average, inside) for x, y in zip(images, truth, strict=True)]
    return torch.tensor(found, dtype=torch.float64)


def _ssim_of(x: Any, y: Any, average: Callable[[Any], Any], inside: tuple[slice, ...]) -> float:
    """Of one image (Wang et al. 2004, equation 13), C₁ = 0.01² and C₂ = 0.03² at a peak of 1."""
    mean_x, mean_y = average(x)[inside], average(y)[inside]
    covariance = average(x * y)[inside] - mean_x * mean_y
    variances = average(x * x)[inside] - mean_x**2 + average(y * y)[inside] - mean_y**2
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return float((luminance * (2 * covariance + 0.03**2) / (variances.clip(min=0) + 0.03**2)).mean())
