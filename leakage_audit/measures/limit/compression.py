"""Linear functionals of a gradient that say as much about the images, to first order, as all its entries.

A fully connected layer fed with one vector an image has the gradient `G = Σ_i δ_i h_iᵀ`, of rank r ≤ B. Wherever the
images move, its derivative stays in the tangent space of the matrices of rank r at G (Koch & Lubich 2007),

    dG = U Uᵀ dG + (I − U Uᵀ) dG V Vᵀ,        G = U S Vᵀ,

so that `Uᵀ dG` and `U⊥ᵀ dG V` are all of it: r·f + (c − r)·r numbers instead of c·f. The functionals are orthonormal:
independent noise on the entries of G is the same independent noise on them, and their transpose gives dG back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from leakage_audit.measures.limit.options import NumericsOptions


class Functionals(Protocol):
    """Linear functionals Φ of a gradient of one shape: `Φᵀ Φ dG = dG` for every derivative dG of the gradient."""

    def __len__(self) -> int:
        """k, their number."""
        ...

    def __call__(self, gradient: Tensor) -> Tensor:
        """Φ G, `(…, k)`, for G `(…, *shape)`."""
        ...

    def transpose(self, values: Tensor) -> Tensor:
        """Φᵀ v, `(…, *shape)`, for v `(…, k)`."""
        ...


@dataclass(frozen=True)
class Entries:
    """A gradient's own entries."""

    shape: torch.Size

    def __len__(self) -> int:
        return self.shape.numel()

    def __call__(self, gradient: Tensor) -> Tensor:
        """Φ G."""
        return gradient.flatten(gradient.ndim - len(self.shape))

    def transpose(self, values: Tensor) -> Tensor:
        """Φᵀ v."""
        return values.unflatten(-1, self.shape)


@dataclass(frozen=True)
class Tangent:
    """Of a matrix, what its derivatives at constant rank can be: `Uᵀ dG` and `U⊥ᵀ dG V`.

    >>> functionals = Tangent(torch.eye(2)[:, :1], torch.eye(2)[:, 1:], torch.eye(3)[:, :1])
    >>> values = functionals(torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]))
    >>> values.tolist(), functionals.transpose(values).tolist()
    ([1.0, 2.0, 3.0, 4.0], [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    """

    u: Tensor
    complement: Tensor
    v: Tensor

    def __len__(self) -> int:
        return self.u.shape[1] * (len(self.v) + self.complement.shape[1])

    def __call__(self, gradient: Tensor) -> Tensor:
        """Φ G."""
        across = self.complement.T @ gradient @ self.v
        return torch.cat([(self.u.T @ gradient).flatten(-2), across.flatten(-2)], -1)

    def transpose(self, values: Tensor) -> Tensor:
        """Φᵀ v."""
        r, f, rest = self.u.shape[1], len(self.v), self.complement.shape[1]
        along, across = values.split([r * f, rest * r], -1)
        return self.u @ along.unflatten(-1, (r, f)) + self.complement @ across.unflatten(-1, (rest, r)) @ self.v.T


def tangent(gradient: Tensor, derivatives: Sequence[Tensor], options: NumericsOptions) -> Tangent | None:
    """Functionals that determine every first-order change of a matrix gradient, or None where they are no fewer.

    Args:
        gradient: G at the images, `(c, f)` for a matrix; of any other shape it is left alone.
        derivatives: What random changes of the images change of it, each shaped like it: they tell whether the rank
            is the same around the images.
        options: What counts as rounding.
    """
    if gradient.ndim != 2:
        return None
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    r = int((s > options.dependent * s[0]).sum())
    rows, columns = gradient.shape
    if r == 0 or r * columns + (rows - r) * r >= rows * columns:
        return None
    u, v = u[:, :r], vh[:r].T
    for d in derivatives:
        across = d - u @ (u.T @ d)
        if float((across - across @ v @ v.T).norm()) > options.outside * float(d.norm()):
            return None
    return Tangent(u, torch.linalg.qr(u, mode="complete")[0][:, r:], v)
