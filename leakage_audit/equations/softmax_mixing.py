"""The mixing's equations under a softmax, in closed form: a hundredth of what automatic differentiation takes.

Where δ = softmax(scores)/B + c(labels), as under cross entropy and with smoothed labels, c does not depend on scores
and ∂δ_b/∂z_b = (diag(p_b) − p_b p_bᵀ)/B. With scores z_b = Z P_b (Z the product of Ŵ and V S, P_b the b-th column) the
residual R = (δ Pᵀ − U) S of docs/method.md, section 5.6, (M36), changes by

    ∂R_ck/∂P_ij = s_k (δ_cj [k = i] + P_kj (∂δ_j/∂z_j Z)_ci).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

Array = np.ndarray
Loss = Callable[[Tensor, Tensor], Tensor]


class SoftmaxMixing:
    """Residual and Jacobian of P for given labels.

    Args:
        scores: Z, `(C, B)`.
        u: U, `(C, B)`.
        s: S, `(B,)`.
        ones: What V S gives the bias' input, which is one, `(B,)`.
        offset: c, `(B, C)`.
    """

    def __init__(self, scores: Tensor, u: Tensor, s: Tensor, ones: Tensor, offset: Tensor) -> None:
        self._scores, self._u, self._s, self._ones = (x.numpy() for x in (scores, u, s, ones))
        self._offset = offset.numpy()
        self._size = len(self._s)

    def residual(self, entries: Array) -> Array:
        """At P `(B·B,)`: `(C·B + B,)`."""
        mixing = entries.reshape(self._size, self._size)
        delta = self._probabilities(mixing) / self._size + self._offset
        spans = (delta.T @ mixing.T - self._u) * self._s
        ones = (self._ones @ mixing - 1) * (self._s[0] / self._size)
        return np.concatenate([spans.ravel(), ones])

    def jacobian(self, entries: Array) -> Array:
        """At P `(B·B,)`: `(C·B + B, B·B)`."""
        b = self._size
        mixing = entries.reshape(b, b)
        p = self._probabilities(mixing)
        # (∂δ_j/∂z_j Z)_ci = p_jc (Z_ci − Σ_d p_jd Z_di) / B, as [j, c, i]
        slope = p[:, :, None] * (self._scores[None] - (p @ self._scores)[:, None]) / b
        found = mixing[None, :, None, :] * slope.transpose(1, 2, 0)[:, None]  # [c, k, i, j]
        delta = p / b + self._offset
        places = np.arange(b)
        found[:, places, places] += delta.T[:, None]
        found *= self._s[None, :, None, None]
        ones = (self._ones * (self._s[0] / b))[None, :, None] * np.eye(b)[:, None]  # [j', i, j]
        return np.concatenate([found.reshape(-1, b * b), ones.reshape(b, b * b)])

    def _probabilities(self, mixing: Array) -> Array:
        """Softmax of each image's scores, `(B, C)`."""
        z = (self._scores @ mixing).T
        z = np.exp(z - z.max(1, keepdims=True))
        found: Array = z / z.sum(1, keepdims=True)
        return found


def softmax_offset(loss: Loss, labels: Tensor, classes: int, tolerance: float = 1e-12) -> Tensor | None:
    """c of a loss whose derivative is softmax(scores)/B + c, `(B, C)`; None of any other.

    Args:
        loss: Takes scores `(B, C)` and labels.
        labels: `(B,)`.
        classes: C.
        tolerance: By which c may differ from scores to scores: float64's rounding.
    """
    generator, size = torch.Generator().manual_seed(0), len(labels)
    found = []
    for spread in (0.0, 1.0, 4.0):
        z = spread * torch.randn(size, classes, generator=generator, dtype=torch.float64)
        found.append(grad(loss)(z, labels) - torch.softmax(z, 1) / size)
    same = all(bool((one - found[0]).abs().max() <= tolerance) for one in found)
    return found[0] if same else None
