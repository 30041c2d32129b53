"""Total variation of first and second order, all colours together: a prior that knows no data.

See docs/method.md, section 6.1, (M50) and (M51).
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, LocalGaussian
from leakage_audit.priors.kronecker import ChannelwiseGaussian
from leakage_audit.priors.precision_operator import FIRST, SECOND, PrecisionOperator, Stencil, difference

# Grey, red − green, yellow − blue: the opponent colours, orthonormal rows.
OPPONENT = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))


class TotalVariation:
    """Total variation of first and second order, `Σ_p Σ_d (ℓ(d·u)/s)^q + second·Σ_p Σ_e (ℓ(e·u)/s)^q`.

    The sums are over the places p, the first differences d (down, across) and the second ones e (down, across, mixed),
    each by itself (anisotropic); `ℓ(v) = (Σ_c v_c² + edge²)^½` is the length of one difference over all channels c.

    The lengths take all channels together, in opponent colours with the two chroma channels weighed up: edges then
    prefer to coincide in all colours, and brightness carries most of them (colour TV; Bredies et al. 2010 for the
    second order, which leaves ramps alone where the first makes stairs of them). With an exponent below one few large
    differences cost less than many small ones, as in photographs (Krishnan & Fergus 2009). Nothing in it is fitted to
    an image set.

    Args:
        chroma: Weight of the chroma channels; 1 treats all colours alike.
        second: Weight of the second differences.
        exponent: q; 1 is total variation.
        scale: s, the typical size of a difference of neighbouring pixels.
        edge: Differences well below this count quadratically: five grey levels, so that weights stay bounded.
        ridge: Pull towards grey, as a share of the mean precision: differences alone do not fix the brightness. Against
            exact gradients it is there for the normal equations and counts for nothing; as a belief it is far too sure,
            a hundredth or two of an image's mean.
        brightness: Standard deviation of an image's mean about grey, which takes the ridge's place (`under_noise`).

    Raises:
        ValueError: If one is out of its range.

    >>> flat = torch.full((1, 3, 4, 4), 0.3, dtype=torch.float64)
    >>> gaussian = TotalVariation(ridge=0.0).local_gaussian(flat)
    >>> bool(gaussian.gradient.abs().max() < 1e-9)  # nothing to gain where nothing varies
    True
    """

    def __init__(
        self,
        chroma: float = 8.0,
        second: float = 2.0,
        exponent: float = 0.7,
        scale: float = 0.05,
        edge: float = 0.02,
        ridge: float = 1e-4,
        brightness: float | None = None,
    ) -> None:
        if brightness is not None and not brightness > 0:
            raise ValueError(f"brightness must be positive, got {brightness}")
        if not (min(chroma, exponent, scale, edge) > 0 and min(second, ridge) >= 0):
            raise ValueError(
                "chroma, exponent, scale and edge must be positive, second and ridge not negative, "
                f"got {chroma}, {exponent}, {scale}, {edge}, {second} and {ridge}"
            )
        self.ridge, self.brightness = ridge, brightness
        self.chroma, self.second, self.exponent, self.scale, self.edge = chroma, second, exponent, scale, edge

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The quadratic that touches the variation at `image`: differences weighed by the inverse of their length."""
        return _Touching(self, image)

    def quadratic(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Its precision, the Kronecker product of a matrix between channels and one between pixels.

        Returns:
            Between pixels, `(B, H·W, H·W)`, and between channels, `(C, C)`.
        """
        colours = self.colours(image)
        return self._spatial(image), colours.T @ colours

    def precision_operator(self, image: Tensor) -> PrecisionOperator:
        """The precision of `local_gaussian` without its matrix."""
        return PrecisionOperator(image.shape, self.colours(image), self._weights(image), self._pull(image))

    def _spatial(self, image: Tensor) -> Tensor:
        """Precision of a channel of unit weight, `(B, H·W, H·W)`."""
        size, _, height, width = image.shape
        pixels = height * width
        precision = torch.zeros(size, pixels * pixels, dtype=image.dtype, device=image.device)
        index = torch.arange(pixels, device=image.device).reshape(height, width)
        for stencil, w in self._weights(image):
            for (i, j), a in stencil.items():
                for (k, m), b in stencil.items():
                    rows = index[i : i + w.shape[1], j : j + w.shape[2]]
                    columns = index[k : k + w.shape[1], m : m + w.shape[2]]
                    precision.index_add_(1, (rows * pixels + columns).flatten(), a * b * w.flatten(1))
        precision = precision.reshape(size, pixels, pixels)
        diagonal = precision.diagonal(dim1=1, dim2=2)
        diagonal += self._pull(image)[:, None]
        return precision

    def under_noise(self, brightness: float = 0.12) -> "TotalVariation":
        """The same with a mean brightness that is as uncertain as a photograph's: what noise hides, a prior decides.

        Args:
            brightness: Its standard deviation about grey.
        """
        known = self.chroma, self.second, self.exponent, self.scale, self.edge, self.ridge
        return TotalVariation(*known, brightness=self.brightness or brightness)

    def _pull(self, image: Tensor) -> Tensor:
        """Precision of the pull towards grey, of each image, `(B,)`."""
        height, width = image.shape[2:]
        if self.brightness is not None:
            return image.new_full((len(image),), 1 / (self.brightness**2 * image.shape[1] * height * width))
        totals = [w.sum((1, 2)) * sum(a * a for a in stencil.values()) for stencil, w in self._weights(image)]
        return self.ridge * torch.stack(totals).sum(0) / (height * width)

    def colours(self, image: Tensor) -> Tensor:
        """Matrix `(C, C)` to weighted opponent colours, or to the channels themselves where they are not three."""
        channels = image.shape[1]
        if channels != 3:
            return torch.eye(channels, dtype=image.dtype, device=image.device)
        weight = torch.tensor([1.0, self.chroma, self.chroma], dtype=image.dtype, device=image.device)
        return weight[:, None] * torch.tensor(OPPONENT, dtype=image.dtype, device=image.device)

    def _weights(self, image: Tensor) -> list[tuple[Stencil, Tensor]]:
        """Each stencil with the weights `(B, H', W')` of its squared differences."""
        u = torch.einsum("cd,bdhw->bchw", self.colours(image), image)
        found = []
        for order, share in ((FIRST, 1.0), (SECOND, self.second)):
            for stencil in order:
                length2 = (difference(u, stencil).square().sum(1) + self.edge**2) / self.scale**2
                found.append((stencil, self.exponent * share * length2 ** (self.exponent / 2 - 1) / self.scale**2))
        return found


class _Touching(ChannelwiseGaussian):
    """The quadratic of a variation at an image, around grey."""

    def __init__(self, prior: TotalVariation, image: Tensor) -> None:
        self._prior = prior
        colours = prior.colours(image)
        self._shares, basis = torch.linalg.eigh(colours.T @ colours)
        super().__init__(image, basis)

    @property
    def mean(self) -> Tensor:
        return torch.full_like(self.image, GREY).flatten()

    @cached_property
    def _operator(self) -> PrecisionOperator:
        return self._prior.precision_operator(self.image)

    def precision(self, v: Tensor) -> Tensor:
        return self._operator(v)

    def preconditioner(self, data: float) -> Callable[[Tensor], Tensor]:
        """Of the weights levelled out."""
        factors = 1 / (self._operator.levels + data)
        return lambda v: self._operator.levelled(factors, v)

    @cached_property
    def _spatial(self) -> Tensor:
        return self._prior.quadratic(self.image)[0]

    def precisions(self) -> list[Tensor]:
        return [self._spatial * share for share in self._shares]

    def covariances(self) -> list[Tensor]:
        return self._covariances

    @cached_property
    def roots(self) -> list[Tensor]:
        return [self._root * float(share) ** 0.5 for share in self._shares]

    @cached_property
    def _root(self) -> Tensor:
        return torch.linalg.cholesky(self._spatial)

    @cached_property
    def _covariances(self) -> list[Tensor]:
        inverse = torch.cholesky_inverse(self._root)
        scaled = {share: inverse / share for share in set(self._shares.tolist())}  # one for both chroma channels
        return [scaled[share] for share in self._shares.tolist()]
