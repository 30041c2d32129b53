"""WᵀW of a layer, row of pixels by row of pixels, and its Cholesky factor.

Two inputs meet in WᵀW only if a window reads both, so with the inputs in the order (row, column, channel) it is block
tridiagonal once the rows are gathered in blocks as high as a window. Its Cholesky factor costs n·b² instead of n³,
b inputs in a block, and that it exists proves that W alone determines the input.
"""

from itertools import pairwise

import numpy as np
import scipy.linalg

from leakage_audit.layerwise.layer_system import LayerSystem


class BlockCholesky:
    """`A = L Lᵀ` of a positive definite block tridiagonal matrix.

    Args:
        diagonal: Blocks `A_ii`, `(b_i, b_i)`; overwritten.
        below: Blocks `A_{i+1,i}`, `(b_{i+1}, b_i)`.

    Raises:
        np.linalg.LinAlgError: If A is not positive definite.
    """

    def __init__(self, diagonal: list[np.ndarray], below: list[np.ndarray]) -> None:
        self._diagonal: list[np.ndarray] = []
        self._below: list[np.ndarray] = []
        for i, block in enumerate(diagonal):
            if i:
                lower = scipy.linalg.solve_triangular(
                    self._diagonal[-1], below[i - 1].T, lower=True, check_finite=False
                )
                self._below.append(lower.T)
                block = block - lower.T @ lower
            self._diagonal.append(scipy.linalg.cholesky(block, lower=True, check_finite=False))
        self._edges = np.cumsum([0, *(len(block) for block in diagonal)])

    def solve(self, y: np.ndarray) -> np.ndarray:
        """`A⁻¹ y` for y `(n,)` or `(n, m)`."""
        x = y.copy()
        places = [slice(a, b) for a, b in pairwise(self._edges)]
        for i, place in enumerate(places):
            if i:
                x[place] -= self._below[i - 1] @ x[places[i - 1]]
            x[place] = scipy.linalg.solve_triangular(self._diagonal[i], x[place], lower=True, check_finite=False)
        for i in range(len(places) - 1, -1, -1):
            if i + 1 < len(places):
                x[places[i]] -= self._below[i].T @ x[places[i + 1]]
            x[places[i]] = scipy.linalg.solve_triangular(
                self._diagonal[i], x[places[i]], lower=True, trans="T", check_finite=False
            )
        return x

    def trace_of_inverse(self) -> float:
        """`tr A⁻¹`, from the last block up: `(A⁻¹)_ii = (L_i L_iᵀ)⁻¹ + Pᵀ (A⁻¹)_{i+1,i+1} P`, `P = L_{i+1,i} L_i⁻¹`."""
        trace, later = 0.0, np.zeros((0, 0))
        for i in range(len(self._diagonal) - 1, -1, -1):
            inverse = scipy.linalg.solve_triangular(self._diagonal[i], np.eye(len(self._diagonal[i])), lower=True)
            here = inverse.T @ inverse
            if len(later):
                step = self._below[i] @ inverse
                here += step.T @ later @ step
            later = here
            trace += float(here.trace())
        return trace


def weight_gram_blocks(system: LayerSystem) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """WᵀW as block tridiagonal, inputs in the order (row, column, channel); 1 on the diagonal of unread inputs.

    Returns:
        Diagonal blocks and the blocks below them, as `BlockCholesky` takes them.
    """
    channels, height, width = system.layer.in_shape
    rows = system.layer.gram_rows(system.weight)
    reach = len(rows)
    y, x = np.unravel_index(np.setdiff1d(np.arange(height * width), system.layer.pixels_read), (height, width))
    y, x, c = y[:, None], x[:, None], np.arange(channels)
    rows[0, y, x, c, x, c] = 1
    rows = rows.reshape(reach, height, width * channels, width * channels)
    high = max(1, reach - 1)
    starts = range(0, height, high)
    diagonal, below = [], []
    for start in starts:
        stop = min(start + high, height)
        diagonal.append(_block(rows, range(start, stop), range(start, stop)))
        if stop < height:
            below.append(_block(rows, range(stop, min(stop + high, height)), range(start, stop)))
    return diagonal, below


def _block(rows: np.ndarray, ys: range, xs: range) -> np.ndarray:
    """The block of WᵀW where rows `ys` meet rows `xs`, none of them below one of `ys` further than `rows` reaches."""
    size = rows.shape[-1]
    block = np.zeros((len(ys), size, len(xs), size))
    for a, y in enumerate(ys):
        for b, x in enumerate(xs):
            if abs(y - x) < len(rows):
                block[a, :, b] = rows[x - y, y] if x >= y else rows[y - x, x].T
    return block.reshape(len(ys) * size, len(xs) * size)
