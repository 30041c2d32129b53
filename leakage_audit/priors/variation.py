"""Total variation of first and second order, all colours together: a prior that knows no data."""

import torch
from torch import Tensor

from leakage_audit.priors.belief import GREY, Belief
from leakage_audit.priors.stiffness import FIRST, RIDGE, SECOND, Stencil, Stiffness, difference

# Grey, red − green, yellow − blue: the opponent colours, orthonormal rows.
OPPONENT = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))


class Variation:
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

    def around(self, image: Tensor) -> Belief:
        """The quadratic that touches the variation at `image`: differences weighed by the inverse of their length."""
        return self.beside(image, torch.full_like(image, GREY), 0.0)

    def beside(self, image: Tensor, guess: Tensor, pull: float) -> Belief:
        """The same times another density: independent pixels around a guess.

        Args:
            image: Where the quadratic touches, `(B, C, H, W)`.
            guess: Mean of the other density, shaped like the image.
            pull: Its precision, one over the variance of a pixel.
        """
        size, channels, height, width = image.shape
        pixels = height * width
        spatial, colours = self._spatial(image), self._colours(image)
        unmixing = colours.T @ colours
        # In the eigenvectors of the colours' metric the channels come apart: each has a multiple of `spatial`.
        shares, basis = torch.linalg.eigh(unmixing)
        covariances = _inverses(spatial, shares.tolist(), pull)

        def covariance(rows: Tensor) -> Tensor:
            parts = torch.einsum("dc,mbdp->cbmp", basis, rows.reshape(-1, size, channels, pixels))
            parts = torch.stack([part @ inverse for part, inverse in zip(parts, covariances, strict=True)])
            return torch.einsum("dc,cbmp->mbdp", basis, parts).reshape(len(rows), -1)

        diagonals = torch.stack([inverse.diagonal(dim1=1, dim2=2) for inverse in covariances])
        return Belief(
            mean=GREY + pull * covariance((guess - GREY).reshape(1, -1))[0],
            variance=torch.einsum("dc,cbp->bdp", basis.square(), diagonals).flatten(),
            covariance=covariance,
            precision=lambda: _with_diagonal(torch.block_diag(*(torch.kron(unmixing, p) for p in spatial)), pull),
        )

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

    def stiffness(self, image: Tensor) -> Stiffness:
        """The precision of `around` without its matrix."""
        return Stiffness(self._colours(image), self._weights(image))

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


def _inverses(spatial: Tensor, shares: list[float], pull: float) -> list[Tensor]:
    """`(share · spatial + pull · I)⁻¹` for each share, factored once where one serves several."""
    found: dict[float, Tensor] = {}
    for share in shares:
        close = next((known for known in found if pull == 0 or abs(known - share) < 1e-9 * known), None)
        if close is None:
            lower = torch.linalg.cholesky(_with_diagonal(share * spatial, pull))
            found[share] = torch.cholesky_inverse(lower)
        elif close != share:
            found[share] = found[close] * (close / share)
    return [found[share] for share in shares]


def _with_diagonal(matrix: Tensor, value: float) -> Tensor:
    matrix.diagonal(dim1=-2, dim2=-1).add_(value)
    return matrix
