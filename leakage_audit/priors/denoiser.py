"""A learned denoiser as a prior: plug and play inside the constrained solve (docs/method.md, section 6.4, (M52))."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, LocalGaussian
from leakage_audit.priors.kronecker import ChannelwiseGaussian
from leakage_audit.priors.precision_operator import PrecisionOperator
from leakage_audit.priors.total_variation import TotalVariation
from leakage_audit.priors.unet import UNet


class Denoiser:
    """The density of images that a denoiser has learned, times a little colour TV.

    What a denoiser D takes off an image is σ² times the slope of the images' log density, smoothed by σ (Tweedie;
    Romano et al. 2017): `x − D(x) = −σ² ∇ log p_σ(x)`. Its curvature is not at hand without thousands of passes; that
    of colour TV's quadratic P, smoothed alike, `(P⁻¹ + σ²I)⁻¹`, stands in for it (raised where it is nearly flat) and
    only decides how long the steps are, not where they end.

    Args:
        network: Trained to take off noise of any strength.
        sigma: σ, strength of the noise that is taken off the present image; four grey levels, near the images' own
            grain.
        beside: Weight of colour TV, which holds the image where the denoiser has seen nothing like it.
        caution: Least curvature, as a share of what a denoiser's can be at most; without it steps overshoot.

    Raises:
        ValueError: If one is not positive.

    >>> prior = Denoiser(UNet(channels=1, width=8))  # untrained: it takes everything off
    >>> prior.denoise(torch.full((1, 1, 4, 4), 0.5)).shape
    torch.Size([1, 1, 4, 4])
    """

    def __init__(self, network: UNet, sigma: float = 0.015, beside: float = 0.3, caution: float = 0.03) -> None:
        if not (sigma > 0 and beside > 0 and caution > 0):
            raise ValueError(f"sigma and beside and caution must be positive, got {sigma}, {beside} and {caution}")
        self.network = network.eval().requires_grad_(False)
        self.sigma, self.beside, self.caution, self.variation = sigma, beside, caution, TotalVariation()

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The Gaussian with the slope of the two densities at `image (B, C, H, W)` and the curvature said above.

        Raises:
            ValueError: If the images have another number of channels than those it was trained on.
        """
        if image.shape[1] != self.network.channels:
            raise ValueError(f"the prior knows images of {self.network.channels} channels, not of {image.shape[1]}")
        return _Denoised(self, image)

    def denoise(self, image: Tensor) -> Tensor:
        """D, the mean over the image and its mirror image, `(B, C, H, W)`."""
        self.network.to(image.device)
        seen = torch.cat([image, image.flip(-1)]).float()
        found = self.network(seen, torch.full((len(seen),), self.sigma, device=image.device)).to(image)
        straight, mirrored = found.chunk(2)
        return (straight + mirrored.flip(-1)) / 2


class _Denoised(ChannelwiseGaussian):
    """The two densities' slope at an image, with the curvature that stands in for theirs.

    Without matrices, `(P⁻¹ + σ²I)⁻¹` is taken at weights levelled out, which changes how long steps are.
    """

    def __init__(self, prior: Denoiser, image: Tensor) -> None:
        self._prior = prior
        colours = prior.variation.colours(image)
        self._shares, basis = torch.linalg.eigh(colours.T @ colours)
        super().__init__(image, basis)

    @property
    def mean(self) -> Tensor:
        """Where the quadratic with this slope and curvature is least."""
        slope = self.gradient.reshape(self.image.shape)
        turned = torch.einsum("dk,bdp->kbp", self._basis, slope.flatten(2))[..., None]
        shift = torch.stack([c @ s for c, s in zip(self.covariances(), turned, strict=True)])
        return self.image.flatten() - torch.einsum("dk,kbpo->bdp", self._basis, shift).flatten()

    @cached_property
    def gradient(self) -> Tensor:
        """The slope, `(n,)`."""
        prior, image = self._prior, self.image
        noise = (image - prior.denoise(image)) / prior.sigma**2
        return prior.beside * self._operator((image - GREY).flatten()) + noise.flatten()

    @cached_property
    def _operator(self) -> PrecisionOperator:
        return self._prior.variation.precision_operator(self.image)

    @cached_property
    def _smoothed(self) -> Tensor:
        """Eigenvalues of the denoiser's curvature at weights levelled out."""
        sigma2 = self._prior.sigma**2
        return (1 - (1 - self._prior.caution) / (1 + sigma2 * self._operator.levels)) / sigma2

    def precision(self, v: Tensor) -> Tensor:
        return self._prior.beside * self._operator(v) + self._operator.levelled(self._smoothed, v)

    def preconditioner(self, data: float) -> Callable[[Tensor], Tensor]:
        """Of the weights levelled out."""
        factors = 1 / (self._prior.beside * self._operator.levels + self._smoothed + data)
        return lambda v: self._operator.levelled(factors, v)

    def precisions(self) -> list[Tensor]:
        return self._matrices[0]

    def covariances(self) -> list[Tensor]:
        return self._matrices[1]

    @cached_property
    def _matrices(self) -> tuple[list[Tensor], list[Tensor]]:
        prior, spatial = self._prior, self._prior.variation.quadratic(self.image)[0]
        eye = torch.eye(spatial.shape[1], dtype=spatial.dtype, device=spatial.device)
        curvatures: list[Tensor] = []
        covariances: list[Tensor] = []
        for k, share in enumerate(self._shares.tolist()):
            if k and abs(share - self._shares[k - 1]) < 1e-9 * share:  # both chroma channels weigh the same
                curvatures.append(curvatures[-1])
                covariances.append(covariances[-1])
            else:
                kept = _inverse(eye + prior.sigma**2 * share * spatial)
                denoiser = (eye - (1 - prior.caution) * kept) / prior.sigma**2
                curvatures.append(prior.beside * share * spatial + denoiser)
                covariances.append(_inverse(curvatures[-1]))
        return curvatures, covariances


def _inverse(matrix: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
