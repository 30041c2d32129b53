"""Total variation of first and second order, all colours together: a prior that knows no data."""

import torch
from torch import Tensor

from leakage_audit.priors.base import GREY, LocalGaussian
from leakage_audit.priors.kronecker import channelwise
from leakage_audit.priors.precision_operator import FIRST, RIDGE, SECOND, PrecisionOperator, Stencil, difference

# Grey, red − green, yellow − blue: the opponent colours, orthonormal rows.
OPPONENT = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))


class TotalVariation:
    """Total variation of first and second order, `Σ_p (|∇u|/s)^q + second·(|∇²u|/s)^q`, a length for all channels.

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
        edge: Differences well below this count quadratically.
    """

    def __init__(
        self,
        chroma: float = 8.0,
        second: float = 2.0,
        exponent: float = 0.7,
        scale: float = 0.05,
        edge: float = 0.02,
    ) -> None:
        self.chroma, self.second, self.exponent, self.scale, self.edge = chroma, second, exponent, scale, edge

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The quadratic that touches the variation at `image`: differences weighed by the inverse of their length."""
        spatial, unmixing = self.quadratic(image)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(spatial))
        shares, basis = torch.linalg.eigh(unmixing)
        scaled = {share: inverse / share for share in set(shares.tolist())}  # one for both chroma channels
        return channelwise(
            mean=torch.full_like(image, GREY),
            basis=basis,
            covariances=[scaled[share] for share in shares.tolist()],
            precisions=lambda: [spatial * share for share in shares],
        )

    def quadratic(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Its precision, the Kronecker product of a matrix between channels and one between pixels.

        Returns:
            Between pixels, `(B, H·W, H·W)`, and between channels, `(C, C)`.
        """
        colours = self._colours(image)
        return self._spatial(image), colours.T @ colours

    def precision_operator(self, image: Tensor) -> PrecisionOperator:
        """The precision of `around` without its matrix."""
        return PrecisionOperator(self._colours(image), self._weights(image))

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
        diagonal += RIDGE * diagonal.mean(1, keepdim=True)
        return precision

    def _colours(self, image: Tensor) -> Tensor:
        """Matrix `(C, C)` to weighted opponent colours, or to the channels themselves where they are not three."""
        channels = image.shape[1]
        if channels != 3:
            return torch.eye(channels, dtype=image.dtype, device=image.device)
        weight = torch.tensor([1.0, self.chroma, self.chroma], dtype=image.dtype, device=image.device)
        return weight[:, None] * torch.tensor(OPPONENT, dtype=image.dtype, device=image.device)

    def _weights(self, image: Tensor) -> list[tuple[Stencil, Tensor]]:
        """Each stencil with the weights `(B, H', W')` of its squared differences."""
        u = torch.einsum("cd,bdhw->bchw", self._colours(image), image)
        found = []
        for order, share in ((FIRST, 1.0), (SECOND, self.second)):
            for stencil in order:
                length2 = (difference(u, stencil).square().sum(1) + self.edge**2) / self.scale**2
                found.append((stencil, self.exponent * share * length2 ** (self.exponent / 2 - 1) / self.scale**2))
        return found
