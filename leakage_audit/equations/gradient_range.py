"""The row space of a fully connected layer's gradient, and what noise each of its rows carries."""

from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.options import Checked


@dataclass(frozen=True)
class GradientRangeOptions(Checked):
    """How the row space is found, and what belongs to an image.

    Attributes:
        oversampling: Columns of the range finder beyond the rank sought (Halko, Martinsson & Tropp 2011).
        iterations: Of its power iteration, each of which squares the ratio of singular values.
        gap: Times the noise's own largest singular value: what is above belongs to an image.
        rest: Share of the gradient beyond the rank sought, from which on it has a higher one.
        seed: Of the range finder.
    """

    oversampling: int = 12
    iterations: int = 3
    gap: float = 10.0
    rest: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        self.check(positive=("iterations", "gap", "rest"), not_negative=("oversampling", "seed"))


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


def gradient_range(
    gradient: Tensor, most: int, rounding: float, options: GradientRangeOptions | None = None
) -> GradientRange | None:
    """A basis of the row space, by a randomised range finder.

    Args:
        gradient: G, `(rows, columns)`, in float64.
        most: Largest rank that the sum of a batch can have.
        rounding: Relative rounding of the gradient's own type.
        options: How it is found.

    Returns:
        None if G is zero or not of rank at most `most`, beyond its noise, or if there is no row or column more.

    Example:
        >>> g = torch.outer(torch.arange(5.0), torch.ones(6)).double()
        >>> gradient_range(g, 2, 1e-16).rank
        1
    """
    options, (height, width) = options or GradientRangeOptions(), gradient.shape
    if most >= min(height, width) or not gradient.any():
        return None
    size = min(most + options.oversampling, height, width)
    generator = torch.Generator().manual_seed(options.seed)
    q = torch.randn(height, size, generator=generator, dtype=gradient.dtype).to(gradient)
    for _ in range(options.iterations):
        q = torch.linalg.qr(gradient @ torch.linalg.qr(gradient.T @ q)[0])[0]
    _, s, vh = torch.linalg.svd(q.T @ gradient, full_matrices=False)
    floor = rounding * gradient.square().mean(1).sqrt()
    basis = vh[:most].T
    residual = gradient - (gradient @ basis) @ basis.T
    beyond = (residual.square().sum(1) / (width - most)).sqrt()
    noise = torch.maximum(floor, beyond).clamp_min(1e-16 * float(s[0]) / width**0.5)
    largest = float(noise.square().mean().sqrt()) * (height**0.5 + width**0.5)
    rank = int((s > options.gap * largest).sum())
    if rank == 0 or rank > most or float(residual.norm()) > options.rest * float(gradient.norm()):
        return None
    basis = basis[:, :rank]
    return GradientRange(basis, gradient @ basis, noise)
