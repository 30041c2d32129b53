"""Linear functionals of a gradient that say as much about the images, to first order, as all its entries.

A fully connected layer fed with one vector an image has the gradient `G = Σ_i δ_i h_iᵀ`, of rank r ≤ B. Wherever the
images move, its derivative stays in the tangent space of the matrices of rank r at G (Koch & Lubich 2007),

    dG = U Uᵀ dG + (I − U Uᵀ) dG V Vᵀ,        G = U S Vᵀ,

so that `Uᵀ dG` and `U⊥ᵀ dG V` are all of it: r·f + (c − r)·r numbers instead of c·f. The functionals are orthonormal:
independent noise on the entries of G is the same independent noise on them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Functionals = Callable[[Tensor], Tensor]

DEPENDENT = 1e-10  # singular values below this share of the largest are rounding of float64
OUTSIDE = 1e-8  # share of a derivative's norm outside the tangent space that may be rounding


def tangent_functionals(gradient: Tensor, derivatives: Sequence[Tensor]) -> Functionals | None:
    """Functionals that determine every first-order change of a matrix gradient, or None where they are no fewer.

    Args:
        gradient: G at the images, `(c, f)` for a matrix; of any other shape it is left alone.
        derivatives: What random changes of the images change of it, each shaped like it: they tell whether the rank
            is the same around the images.
    """
    if gradient.ndim != 2:
        return None
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    r = int((s > DEPENDENT * s[0]).sum())
    rows, columns = gradient.shape
    if r == 0 or r * columns + (rows - r) * r >= rows * columns:
        return None
    u, v = u[:, :r], vh[:r].T
    for d in derivatives:
        across = d - u @ (u.T @ d)
        if float((across - across @ v @ v.T).norm()) > OUTSIDE * float(d.norm()):
            return None
    complement = torch.linalg.qr(u, mode="complete")[0][:, r:]
    return lambda g: torch.cat([(u.T @ g).flatten(), (complement.T @ g @ v).flatten()])
