"""Products of a convolution's columns, from products of its filters: two inputs meet if a window reads both."""

import numpy as np
from torch import Tensor

from leakage_audit.networks.layer_types.base import Shape


def gram_rows(
    weight: Tensor,
    in_shape: Shape,
    out_shape: Shape,
    groups: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> np.ndarray:
    """How the inputs of row y meet those of row y + Δ, `(reach, H, W, c_in, W, c_in)`."""
    channels, height, width = in_shape
    per_group = channels // groups
    w = weight.double().cpu().numpy()
    kernel = w.shape[2:]
    meet = np.zeros((channels, *kernel, channels, *kernel))
    for g in range(groups):
        own = slice(g * per_group, (g + 1) * per_group)
        filters = w[g * len(w) // groups : (g + 1) * len(w) // groups]
        meet[own, :, :, own] = np.einsum("ocij,odkl->cijdkl", filters, filters, optimize=True)
    reads = [
        stride[i] * np.arange(out_shape[1 + i]) + dilation[i] * np.arange(kernel[i])[:, None] - padding[i]
        for i in (0, 1)
    ]  # along each axis, the pixel that tap t of window p reads
    found = np.zeros((dilation[0] * (kernel[0] - 1) + 1, height, width, channels, width, channels))
    for i in range(kernel[0]):
        for k in range(i, kernel[0]):
            y = reads[0][i][(reads[0][i] >= 0) & (reads[0][k] < height)]
            step = dilation[0] * (k - i)
            for j in range(kernel[1]):
                for m in range(kernel[1]):
                    one, two = reads[1][j], reads[1][m]
                    inside = (np.minimum(one, two) >= 0) & (np.maximum(one, two) < width)
                    found[step, y[:, None], one[inside], :, two[inside], :] += meet[:, i, j, :, k, m]
    return found
