"""The precision of a variation as an operator on images, for those too large for its matrix."""

import torch
from torch import Tensor

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


class PrecisionOperator:
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

    def precondition(self, v: Tensor, data: float) -> Tensor:
        """`(P̄ + data·I)⁻¹ v`, with P̄ the precision at weights levelled out, which a cosine transform makes diagonal."""
        values, basis = torch.linalg.eigh(self._colours.T @ self._colours)
        rows, columns = _cosines(v.shape[2], v), _cosines(v.shape[3], v)
        down, across = _eigenvalues(v.shape[2], v)[:, None], _eigenvalues(v.shape[3], v)[None]
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
