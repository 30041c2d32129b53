"""One convolution's linear system `u x = v` (equation 7), never formed unless asked.

With the layer's pre-activation z and its derivative ∂L/∂z known, its input x satisfies

    u x = v,   u = [W; K],   v = [z - b; g]

W is the convolution itself (|z| rows, the weight constraints 1a), K the map from x to the filters' gradient ∂L/∂w
(|w| rows, the gradient constraints 1b), n columns. Both are convolutions, and so are their adjoints:

    W x  = conv(x, w)            Wᵀ a = conv_transpose(a, w)
    K x  = ∂⟨∂L/∂z, conv(x, w)⟩/∂w     Kᵀ b = conv_transpose(∂L/∂z, b)
"""

import math
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from leakage_audit.networks.layers import Convolution


class LayerSystem:
    """The system of one convolution.

    Args:
        layer: The convolution.
        dz: ∂L/∂z, `(c_out, H', W')`.
        z: The pre-activation, `(c_out, H', W')`.
        gradient: ∂L/∂w, shaped like the filters; ignored for a layer without learned filters, which has no K.

    Attributes:
        n: Number of unknowns, the input's entries.
        equations: Number of rows, |z| + |w|.
    """

    def __init__(self, layer: Convolution, dz: Tensor, z: Tensor, gradient: Tensor | None) -> None:
        self.layer, self.dz, self.z = layer, dz[None], z
        self.weight = layer.weight.detach().to(dz.dtype)
        self.gradient = gradient if layer.learned else None
        self.n = math.prod(layer.in_shape)
        self.equations = z.numel() + (0 if self.gradient is None else self.weight.numel())

    @cached_property
    def v(self) -> Tensor:
        """The right-hand side [z - b; g], `(equations,)`."""
        bias = self.layer.bias
        constant = self.z if bias is None else self.z - bias.detach().to(self.z.dtype)[:, None, None]
        parts = [constant.flatten()] + ([] if self.gradient is None else [self.gradient.flatten()])
        return torch.cat(parts)

    @property
    def _geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
        return self.layer.stride, self.layer.padding, self.layer.dilation, self.layer.groups

    def apply(self, x: Tensor) -> Tensor:
        """`u x` for x `(n,)` or `(c_in, H, W)`."""
        image = x.reshape(1, *self.layer.in_shape)
        parts = [F.conv2d(image, self.weight, None, *self._geometry).flatten()]
        if self.gradient is not None:
            parts.append(conv2d_weight(image, self.weight.shape, self.dz, *self._geometry).flatten())
        return torch.cat(parts)

    def dx(self) -> Tensor:
        """∂L/∂x = Wᵀ ∂L/∂z, the derivative carried back through the layer, `(1, c_in, H, W)`."""
        return conv2d_input((1, *self.layer.in_shape), self.weight, self.dz, *self._geometry)

    def adjoint(self, y: Tensor) -> Tensor:
        """`uᵀ y` for y `(equations,)`, as `(n,)`."""
        shape = (1, *self.layer.in_shape)
        a = y[: self.z.numel()].reshape(self.dz.shape)
        x = conv2d_input(shape, self.weight, a, *self._geometry)
        if self.gradient is not None:
            b = y[self.z.numel() :].reshape(self.weight.shape)
            x = x + conv2d_input(shape, b, self.dz, *self._geometry)
        return x.flatten()

    @cached_property
    def windows(self) -> np.ndarray:
        """Which pixel (row · W + column, -1 in the padding) each tap of each window reads, `(k·k, H'·W')`."""
        _, height, width = self.layer.in_shape
        pixels = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
        stride, padding, dilation, _ = self._geometry
        size = tuple(self.weight.shape[2:])
        return F.unfold(pixels, size, dilation, padding, stride)[0].long().numpy() - 1

    def weight_matrix(self) -> scipy.sparse.csr_array:
        """W as a sparse matrix, `(|z|, n)`."""
        c_out, c_in, *_ = self.weight.shape
        taps, places = self.windows.shape
        pixels = math.prod(self.layer.in_shape[1:])
        o, c, _, p = np.ogrid[:c_out, :c_in, :taps, :places]
        channel = o // (c_out // self.layer.groups) * c_in + c
        shape = (c_out, c_in, taps, places)
        rows, columns = np.broadcast_to(o * places + p, shape), channel * pixels + self.windows
        values = np.broadcast_to(self.weight.reshape(c_out, c_in, taps, 1).cpu().numpy(), shape)
        inside = np.broadcast_to(self.windows >= 0, shape)
        entries = (values[inside], (rows[inside], columns[inside]))
        return scipy.sparse.csr_array(entries, shape=(c_out * places, self.n))

    def gradient_block(self, group: int = 0) -> np.ndarray:
        """K restricted to one input channel, `(c_out/groups · k·k, H·W)`: the same for every channel of a group.

        An input channel meets the derivative ∂L/∂z of each output channel and nothing else, so
        `K = ⊕_groups I_{c_in/groups} ⊗ K₀` up to the order of the rows.
        """
        per_group = self.weight.shape[0] // self.layer.groups
        dz = self.dz[0, group * per_group : (group + 1) * per_group].reshape(per_group, 1, -1).cpu().numpy()
        taps, places = self.windows.shape
        block = np.zeros((per_group, taps, math.prod(self.layer.in_shape[1:]) + 1), dtype=dz.dtype)
        # Distinct places of one tap read distinct pixels, so nothing is overwritten; -1 lands in the spare column.
        o, t, _ = np.ogrid[:per_group, :taps, :places]
        block[o, t, self.windows[None]] = dz
        return block[..., :-1].reshape(per_group * taps, -1)

    def gradient_matrix(self) -> np.ndarray:
        """K as a dense matrix, `(|w|, n)`; no rows without learned filters."""
        if self.gradient is None:
            return np.zeros((0, self.n))
        c_out, c_in, *_ = self.weight.shape
        taps, pixels, per_group = self.windows.shape[0], math.prod(self.layer.in_shape[1:]), c_out // self.layer.groups
        matrix = np.zeros((c_out, c_in, taps, self.layer.in_shape[0], pixels), dtype=self.dz.cpu().numpy().dtype)
        for group in range(self.layer.groups):
            block = self.gradient_block(group).reshape(per_group, taps, pixels)
            for c in range(c_in):
                matrix[group * per_group : (group + 1) * per_group, c, :, group * c_in + c] = block
        return matrix.reshape(c_out * c_in * taps, self.n)

    def matrix(self) -> np.ndarray:
        """u as a dense matrix, `(equations, n)`."""
        return np.concatenate([self.weight_matrix().toarray(), self.gradient_matrix()])
