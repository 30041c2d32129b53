"""What the attacker believes about images before the gradients speak.

A prior tells, at any image, the Gaussian that stands for it there: for a quadratic prior its own mean and precision,
for total variation the quadratic that touches it from above (Vogel & Oman 1996, lagged diffusivity). Solving with
that Gaussian and asking again is the classical majorise-minimise iteration, so one solver serves every prior. Adding
one is one class with `around`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Grey, red − green, yellow − blue: the opponent colours, orthonormal rows.
OPPONENT = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))
GREY = 0.5


@dataclass(frozen=True)
class Belief:
    """A Gaussian over images, flattened to n numbers.

    Attributes:
        mean: `(n,)`.
        covariance: Multiplies rows `(m, n)` by the covariance matrix.
        precision: The inverse of the covariance as a dense matrix `(n, n)`, made when called.
        variance: Diagonal of the covariance, `(n,)`.
    """

    mean: Tensor
    variance: Tensor
    covariance: Callable[[Tensor], Tensor]
    precision: Callable[[], Tensor]


class Prior(Protocol):
    """What an attack needs of a prior."""

    def around(self, image: Tensor) -> Belief:
        """The Gaussian that stands for the prior at `image (B, C, H, W)`, whose values lie in about [0, 1]."""
        ...


class MinimumNorm:
    """No preference but for grey: independent pixels around 0.5.

    Args:
        spread: Standard deviation of a pixel.
    """

    def __init__(self, spread: float = 0.25) -> None:
        self.spread = spread

    def around(self, image: Tensor) -> Belief:
        """The same Gaussian everywhere."""
        variance = self.spread**2
        return Belief(
            mean=torch.full_like(image, GREY).flatten(),
            variance=torch.full_like(image, variance).flatten(),
            covariance=lambda rows: rows * variance,
            precision=lambda: torch.eye(image.numel(), dtype=image.dtype, device=image.device) / variance,
        )


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
        size, channels, height, width = image.shape
        pixels = height * width
        colours = self._colours(image)
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
        spatial = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        unmixing = colours.T @ colours
        mixing = torch.linalg.inv(unmixing)

        def covariance(rows: Tensor) -> Tensor:
            parts = torch.einsum("mbcp,bpq->mbcq", rows.reshape(-1, size, channels, pixels), spatial)
            return torch.einsum("cd,mbdq->mbcq", mixing, parts).reshape(len(rows), -1)

        return Belief(
            mean=torch.full_like(image, GREY).flatten(),
            variance=(mixing.diagonal()[:, None] * spatial.diagonal(dim1=1, dim2=2)[:, None]).flatten(),
            covariance=covariance,
            precision=lambda: torch.block_diag(*(torch.kron(unmixing, p) for p in precision)),
        )

    def stiffness(self, image: Tensor) -> "Stiffness":
        """The precision of `around` without its matrix."""
        return Stiffness(self._colours(image), self._weights(image))

    def _colours(self, image: Tensor) -> Tensor:
        """Matrix `(C, C)` to weighted opponent colours, or to the channels themselves where they are not three."""
        channels = image.shape[1]
        if channels != 3:
            return torch.eye(channels, dtype=image.dtype, device=image.device)
        weight = torch.tensor([1.0, self.chroma, self.chroma], dtype=image.dtype, device=image.device)
        return weight[:, None] * torch.tensor(OPPONENT, dtype=image.dtype, device=image.device)

    def _weights(self, image: Tensor) -> "list[tuple[Stencil, Tensor]]":
        """Each stencil with the weights `(B, H', W')` of its squared differences."""
        u = torch.einsum("cd,bdhw->bchw", self._colours(image), image)
        found = []
        for order, share in ((FIRST, 1.0), (SECOND, self.second)):
            for stencil in order:
                length2 = (difference(u, stencil).square().sum(1) + self.edge**2) / self.scale**2
                found.append((stencil, self.exponent * share * length2 ** (self.exponent / 2 - 1) / self.scale**2))
        return found


RIDGE = 1e-4  # pull towards grey, as a share of the mean precision: differences alone do not fix the brightness

Stencil = dict[tuple[int, int], float]  # tap (row, column) → coefficient
FIRST: tuple[Stencil, ...] = ({(0, 0): -1.0, (1, 0): 1.0}, {(0, 0): -1.0, (0, 1): 1.0})
SECOND: tuple[Stencil, ...] = (
    {(0, 0): 1.0, (1, 0): -2.0, (2, 0): 1.0},
    {(0, 0): 1.0, (0, 1): -2.0, (0, 2): 1.0},
    # Mixed differences count twice in the Hessian's norm.
    {(0, 0): 2**0.5, (1, 0): -(2**0.5), (0, 1): -(2**0.5), (1, 1): 2**0.5},
)


def difference(u: Tensor, stencil: Stencil) -> Tensor:
    """Apply a stencil wherever it fits; `(B, C, H - reach, W - reach)`."""
    height = u.shape[2] - max(i for i, _ in stencil)
    width = u.shape[3] - max(j for _, j in stencil)
    return torch.stack([a * u[:, :, i : i + height, j : j + width] for (i, j), a in stencil.items()]).sum(0)


class Stiffness:
    """A variation's precision at one image, as an operator, with an approximate inverse.

    Args:
        colours: Matrix to weighted opponent colours, `(C, C)`.
        weights: Stencils with the weights of their squared differences.
    """

    def __init__(self, colours: Tensor, weights: list[tuple[Stencil, Tensor]]) -> None:
        self._colours, self._weights = colours, weights
        total = sum(float(w.mean()) * sum(a * a for a in stencil.values()) for stencil, w in weights)
        self._ridge = RIDGE * total

    def __call__(self, v: Tensor) -> Tensor:
        """Precision times `v (B, C, H, W)`."""
        u = torch.einsum("cd,bdhw->bchw", self._colours, v)
        out = self._ridge * u
        for stencil, w in self._weights:
            d = w[:, None] * difference(u, stencil)
            for (i, j), a in stencil.items():
                out[:, :, i : i + d.shape[2], j : j + d.shape[3]] += a * d
        return torch.einsum("dc,bdhw->bchw", self._colours, out)

    def smooth_inverse(self, v: Tensor, data: float) -> Tensor:
        """`(P̄ + data·I)⁻¹ v`, with P̄ the precision at weights levelled out, which a cosine transform makes diagonal."""
        values, basis = torch.linalg.eigh(self._colours.T @ self._colours)
        rows, columns = _cosines(v.shape[2], v), _cosines(v.shape[3], v)
        angles = [
            2 - 2 * torch.cos(torch.pi * torch.arange(n, dtype=v.dtype, device=v.device) / n) for n in v.shape[2:]
        ]
        down, across = angles[0][:, None], angles[1][None]
        squares = (down, across, down**2, across**2, 2 * down * across)  # of the stencils, in the order of `_weights`
        levels = [float(w.mean()) for _, w in self._weights]
        spectrum = sum(level * square for level, square in zip(levels, squares, strict=True)) + self._ridge
        u = torch.einsum("dc,bdhw->bchw", basis, rows @ v @ columns.T)
        u = u / (values[:, None, None] * spectrum + data)
        return rows.T @ torch.einsum("cd,bdhw->bchw", basis, u) @ columns


def _eigenvalues(n: int, like: Tensor) -> Tensor:
    """Of the squared first differences of n points, which the cosine transform makes diagonal, `(n,)`."""
    return 2 - 2 * torch.cos(torch.pi * torch.arange(n, dtype=like.dtype, device=like.device) / n)


def _cosines(n: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform (DCT-II), `(n, n)`."""
    k = torch.arange(n, dtype=like.dtype, device=like.device)
    matrix = torch.cos(torch.pi * k[:, None] * (k + 0.5) / n) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


PRIORS: dict[str, Callable[[], Prior]] = {
    "colour_tv": Variation,
    "tv": lambda: Variation(chroma=1.0),
    "none": MinimumNorm,
}
