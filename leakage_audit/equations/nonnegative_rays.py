"""Extreme rays of a cone of non-negative vectors, by linear programmes.

Let `M = S A` with unknown `S ≥ 0` (what rectifiers put out) and any invertible A. The w with `M w ≥ 0` are a cone that
holds those of S's columns. Where each column has an entry in which all others are zero, M w ≥ 0 leaves nothing but
their non-negative combinations: the columns *are* the extreme rays (separability, Donoho & Stodden 2003), and
maximising a random linear function over the cone finds one of them. Elsewhere the cone is larger and has other rays,
which have few zeros; each is to be judged by these.
"""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from leakage_audit.runtime import Budget


def extreme_rays(rows: Tensor, slack: float, tries: int, seed: int, budget: Budget) -> Tensor:
    """Rays that are found one after another, each programme looking away from those before.

    Args:
        rows: M, `(N, r)`.
        slack: How far below zero an entry may lie, in units of the average entry.
        tries: Most programmes in a row that find nothing new.
        seed: Of the random functions.
        budget: Time limit.

    Returns:
        Unit vectors w, `(k, r)`, k at most r; independent, and `M w` sums to something positive.

    Example:
        >>> s = torch.tensor([[1.0, 0], [0, 2], [3, 1]], dtype=torch.float64)
        >>> rays = extreme_rays(s @ torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64), 1e-9, 3, 0, Budget())
        >>> len(rays)
        2
    """
    matrix = rows.detach().cpu().numpy()
    n, r = matrix.shape
    total = matrix.mean(0)
    generator, found, idle = np.random.default_rng(seed), np.zeros((0, r)), 0
    while len(found) < r and idle < tries and not budget.exhausted:
        goal = generator.standard_normal((r,))
        known = np.linalg.qr(found.T)[0] if len(found) else np.zeros((r, 0))
        goal -= known @ (known.T @ goal)
        programme = linprog(
            -goal,
            A_ub=-matrix,
            b_ub=np.full(n, slack),
            A_eq=total[None],
            b_eq=[1.0],
            bounds=(None, None),
            method="highs",
        )
        idle += 1
        if programme.status != 0 or programme.x is None:
            continue
        w = programme.x / np.linalg.norm(programme.x)
        if np.linalg.norm(w - known @ (known.T @ w)) > 1e-3:
            found, idle = np.concatenate([found, w[None]]), 0
    return torch.from_numpy(found).to(rows)
