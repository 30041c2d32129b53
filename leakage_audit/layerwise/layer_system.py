"""One layer's linear system `u x = v` (equation 7; docs/method.md, section 2.2, (M3) to (M6)), formed only if asked.

With the layer's pre-activation z and its derivative ∂L/∂z known, its input x satisfies

    u x = v,   u = [W; K],   v = [z - b; g]

W is the layer's linear map (|z| rows, the weight constraints 1a), K the map from x to the weights' gradient ∂L/∂w (|w|
rows, the gradient constraints 1b), n columns. W is linear in the weights, too, so that the adjoint of K is that of W
with other weights:

    K x  = ∂⟨∂L/∂z, W_w x⟩/∂w,     Kᵀ b = (W_b)ᵀ ∂L/∂z
"""

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from leakage_audit.networks.layer_types import SpatialLayer


class LayerSystem:
    """The system of one layer.

    Args:
        layer: The layer.
        dz: ∂L/∂z, `(c_out, H', W')`.
        z: The pre-activation, `(c_out, H', W')`.
        gradient: ∂L/∂w, shaped like the weights; ignored for a layer that learns none, which has no K.

    Attributes:
        n: Number of unknowns, the input's entries.
        equations: Number of rows, |z| + |w|.
    """

    def __init__(self, layer: SpatialLayer, dz: Tensor, z: Tensor, gradient: Tensor | None) -> None:
        self.layer, self.dz, self.z = layer, dz[None], z
        self.weight = layer.weight.detach().to(dz.dtype)
        self.gradient = gradient if layer.learned else None
        self.n = math.prod(layer.in_shape)
        self.equations = z.numel() + (0 if self.gradient is None else self.weight.numel())
        self._map = replace(layer, weight=self.weight, bias=None)

    @cached_property
    def v(self) -> Tensor:
        """The right-hand side [z - b; g], `(equations,)`."""
        bias = self.layer.bias
        constant = self.z if bias is None else self.z - bias.detach().to(self.z.dtype)[:, None, None]
        parts = [constant.flatten()] + ([] if self.gradient is None else [self.gradient.flatten()])
        return torch.cat(parts)

    def apply(self, x: Tensor) -> Tensor:
        """`u x` for x `(n,)` or `(c_in, H, W)`."""
        image = x.reshape(1, *self.layer.in_shape)
        parts = [self._map(image).flatten()]
        if self.gradient is not None:
            parts.append(self._map.weight_gradient(image, self.dz).flatten())
        return torch.cat(parts)

    def adjoint(self, y: Tensor) -> Tensor:
        """`uᵀ y` for y `(equations,)`, as `(n,)`."""
        x = self._map.adjoint(y[: self.z.numel()].reshape(self.dz.shape))
        if self.gradient is not None:
            b = y[self.z.numel() :].reshape(self.weight.shape)
            x = x + replace(self._map, weight=b).adjoint(self.dz)
        return x.flatten()

    def dx(self) -> Tensor:
        """∂L/∂x, the derivative carried back through the layer, `(1, c_in, H, W)`."""
        return self._map.adjoint(self.dz)

    def weight_matrix(self) -> scipy.sparse.csr_array:
        """W as a sparse matrix, `(|z|, n)`."""
        return self.layer.weight_matrix(self.weight)

    def gradient_block(self, group: int = 0) -> np.ndarray:
        """K restricted to one input channel of a group, K₀: the same for each, `K = ⊕_groups I ⊗ K₀`."""
        return self.layer.gradient_block(self.dz, group)

    def gradient_matrix(self) -> np.ndarray:
        """K as a dense matrix, `(|w|, n)`; no rows without learned weights."""
        if self.gradient is None:
            return np.zeros((0, self.n))
        channels, pixels = self.layer.in_shape[0], math.prod(self.layer.in_shape[1:])
        matrix = np.zeros((self.weight.numel(), channels, pixels), dtype=self.dz.cpu().numpy().dtype)
        for group, places in enumerate(self.layer.block_places):
            block, per_group = self.gradient_block(group), places.shape[1]
            for c in range(per_group):
                matrix[places[:, c], group * per_group + c] = block
        return matrix.reshape(len(matrix), self.n)

    def matrix(self) -> np.ndarray:
        """u as a dense matrix, `(equations, n)`."""
        return np.concatenate([self.weight_matrix().toarray(), self.gradient_matrix()])
