"""The row space of a fully connected layer's gradient, and what noise each of its rows carries."""

from dataclasses import dataclass

import torch
from torch import Tensor

OVERSAMPLING = 12  # columns of the range finder beyond the rank sought (Halko, Martinsson & Tropp 2011)
GAP = 10.0  # times the noise's own largest singular value: what is above belongs to an image


@dataclass(frozen=True)
class GradientRange:
    """G = M Vᵀ + noise.

    Attributes:
        basis: V, orthonormal columns, `(columns, rank)`.
        rows: M = G V, `(rows, rank)`.
        noise: Standard deviation of the entries of each row of G, `(rows,)`.
    """

    basis: Tensor
    rows: Tensor
    noise: Tensor

    @property
    def rank(self) -> int:
        """Number of images that the gradient adds up, unless some are linear combinations of the others."""
        return self.rows.shape[1]


def gradient_range(gradient: Tensor, most: int, rounding: float, seed: int = 0) -> GradientRange | None:
    """A basis of the row space, by a randomised range finder.

    Args:
        gradient: G, `(rows, columns)`, in float64.
        most: Largest rank that the sum of a batch can have.
        rounding: Relative rounding of the gradient's own type.
        seed: Of the range finder.

    Returns:
        None if G is zero or not of rank at most `most`, beyond its noise, or if there is no row or column more.

    Example:
        >>> g = torch.outer(torch.arange(5.0), torch.ones(6)).double()
        >>> gradient_range(g, 2, 1e-16).rank
        1
    """
    height, width = gradient.shape
    if most >= min(height, width) or not gradient.any():
        return None
    size = min(most + OVERSAMPLING, height, width)
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(height, size, generator=generator, dtype=gradient.dtype).to(gradient)
    for _ in range(3):
        q = torch.linalg.qr(gradient @ torch.linalg.qr(gradient.T @ q)[0])[0]
    _, s, vh = torch.linalg.svd(q.T @ gradient, full_matrices=False)
    floor = rounding * gradient.square().mean(1).sqrt()
    basis = vh[:most].T
    residual = gradient - (gradient @ basis) @ basis.T
    beyond = (residual.square().sum(1) / (width - most)).sqrt()
    noise = torch.maximum(floor, beyond).clamp_min(1e-16 * float(s[0]) / width**0.5)
    largest = float(noise.square().mean().sqrt()) * (height**0.5 + width**0.5)
    rank = int((s > GAP * largest).sum())
    if rank == 0 or rank > most or float(residual.norm()) > 1e-3 * float(gradient.norm()):
        return None
    basis = basis[:, :rank]
    return GradientRange(basis, gradient @ basis, noise)
