"""The precision of a variation as an operator on images, for those too large for its matrix.

Levelled to constant weights, the cosine transform makes it diagonal (docs/method.md, section 5.14).
"""

from functools import cached_property

import torch
from torch import Tensor

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


class PrecisionOperator:
    """A variation's precision at one image, as an operator, and at weights levelled out to their means.

    Args:
        shape: Of the image, `(B, C, H, W)`.
        colours: Matrix to weighted opponent colours, `(C, C)`.
        weights: Stencils with the weights of their squared differences.
        ridge: Precision of the pull towards grey, of each image `(B,)`.
    """

    def __init__(
        self, shape: torch.Size, colours: Tensor, weights: list[tuple[Stencil, Tensor]], ridge: Tensor
    ) -> None:
        self._shape, self._colours, self._weights = shape, colours, weights
        self._ridge = ridge[:, None, None, None]

    def __call__(self, v: Tensor) -> Tensor:
        """Precision times `v (n,)`."""
        u = torch.einsum("cd,bdhw->bchw", self._colours, v.reshape(self._shape))
        out = self._ridge * u
        for stencil, w in self._weights:
            d = w[:, None] * difference(u, stencil)
            for (i, j), a in stencil.items():
                out[:, :, i : i + d.shape[2], j : j + d.shape[3]] += a * d
        return torch.einsum("dc,bdhw->bchw", self._colours, out).flatten()

    @property
    def levels(self) -> Tensor:
        """Eigenvalues P̄ of the precision at weights levelled out, `(C, H, W)`."""
        return self._transform[0]

    def levelled(self, factors: Tensor, v: Tensor) -> Tensor:
        """A function of the levelled precision times `v (n,)`.

        Args:
            factors: The function's values at `levels`.
            v: Flattened image.
        """
        _, basis, rows, columns = self._transform
        u = torch.einsum("dc,bdhw->bchw", basis, rows @ v.reshape(self._shape) @ columns.T) * factors
        return (rows.T @ torch.einsum("cd,bdhw->bchw", basis, u) @ columns).flatten()

    @cached_property
    def _transform(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`levels`, and the bases in which they are its eigenvalues: of colours, rows and columns."""
        height, width = self._shape[2:]
        values, basis = torch.linalg.eigh(self._colours.T @ self._colours)
        down, across = _eigenvalues(height, values)[:, None], _eigenvalues(width, values)[None]
        squares = (down, across, down**2, across**2, 2 * down * across)  # of the stencils, in the order of `_weights`
        means = [float(w.mean()) for _, w in self._weights]
        spectrum = sum(level * square for level, square in zip(means, squares, strict=True)) + self._ridge.mean()
        return values[:, None, None] * spectrum, basis, _cosines(height, values), _cosines(width, values)


def _eigenvalues(n: int, like: Tensor) -> Tensor:
    """Of the squared first differences of n points, which the cosine transform makes diagonal, `(n,)`."""
    return 2 - 2 * torch.cos(torch.pi * torch.arange(n, dtype=like.dtype, device=like.device) / n)


def _cosines(n: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform (DCT-II), `(n, n)`."""
    k = torch.arange(n, dtype=like.dtype, device=like.device)
    matrix = torch.cos(torch.pi * k[:, None] * (k + 0.5) / n) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix
