"""A learned denoiser as a prior: plug and play inside the constrained solve."""

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, LocalGaussian
from leakage_audit.priors.kronecker import channelwise
from leakage_audit.priors.total_variation import TotalVariation
from leakage_audit.priors.unet import UNet

SIGMA = 0.015  # strength of the noise that is taken off the present image
CAUTION = 0.03  # least curvature, as a share of what a denoiser's can be at most: without it, steps overshoot
BESIDE = 0.3  # the variation counts by this much beside the denoiser


class Denoiser:
    """The density of images that a denoiser has learned, times a little colour TV.

    What a denoiser D takes off an image is σ² times the slope of the images' log density, smoothed by σ (Tweedie;
    Romano et al. 2017): `x − D(x) = −σ² ∇ log p_σ(x)`. Its curvature is not at hand without thousands of passes; that
    of colour TV's quadratic P, smoothed alike, `(P⁻¹ + σ²I)⁻¹`, stands in for it (raised where it is nearly flat) and
    only decides how long the steps are, not where they end.

    Args:
        network: Trained to take off noise of any strength.
        sigma: σ.
        beside: Weight of colour TV.
    """

    def __init__(self, network: UNet, sigma: float = SIGMA, beside: float = BESIDE) -> None:
        if not (sigma > 0 and beside > 0):
            raise ValueError(f"sigma and beside must be positive, got {sigma} and {beside}")
        self.network = network.eval().requires_grad_(False)
        self.sigma, self.beside, self.variation = sigma, beside, TotalVariation()

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The Gaussian with the slope of the two densities at `image (B, C, H, W)` and the curvature said above.

        Raises:
            ValueError: If the images have another number of channels than those it was trained on.
        """
        if image.shape[1] != self.network.channels:
            raise ValueError(f"the prior knows images of {self.network.channels} channels, not of {image.shape[1]}")
        spatial, unmixing = self.variation.quadratic(image)
        shares, basis = torch.linalg.eigh(unmixing)
        eye = torch.eye(spatial.shape[1], dtype=image.dtype, device=image.device)
        slope = _turn(basis, (image - self.denoise(image)) / self.sigma**2)
        offset = _turn(basis, image - GREY)
        curvatures: list[Tensor] = []
        covariances: list[Tensor] = []
        shifts = []
        for k, share in enumerate(shares.tolist()):
            if k and abs(share - shares[k - 1]) < 1e-9 * share:  # both chroma channels weigh the same
                curvatures.append(curvatures[-1])
                covariances.append(covariances[-1])
            else:
                kept = _inverse(eye + self.sigma**2 * share * spatial)
                curvatures.append(self.beside * share * spatial + (eye - (1 - CAUTION) * kept) / self.sigma**2)
                covariances.append(_inverse(curvatures[-1]))
            downhill = self.beside * share * (spatial @ offset[k]) + slope[k]
            shifts.append(covariances[-1] @ downhill)
        shift = torch.einsum("dk,kbpo->bdp", basis, torch.stack(shifts)).reshape(image.shape)
        return channelwise(image - shift, basis, covariances, lambda: curvatures)

    def denoise(self, image: Tensor) -> Tensor:
        """D, the mean over the image and its mirror image, `(B, C, H, W)`."""
        self.network.to(image.device)
        seen = torch.cat([image, image.flip(-1)]).float()
        found = self.network(seen, torch.full((len(seen),), self.sigma, device=image.device)).to(image)
        straight, mirrored = found.chunk(2)
        return (straight + mirrored.flip(-1)) / 2


def _turn(basis: Tensor, image: Tensor) -> Tensor:
    """Channels of the rotated image as columns, `(C, B, H·W, 1)`."""
    return torch.einsum("dk,bdp->kbp", basis, image.flatten(2))[..., None]


def _inverse(matrix: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
