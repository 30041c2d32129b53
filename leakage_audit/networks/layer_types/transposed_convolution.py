"""Transposed convolutions: the adjoint of a convolution, as decoders and discriminators' mirrors use it."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Self

import numpy as np
import scipy.sparse
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.networks.layer_types.base import RankBound, Shape, SpatialLayer, pair, refuse_channels, refuse_empty
from leakage_audit.networks.layer_types.convolution import Convolution


@dataclass(frozen=True)
class TransposedConvolution(SpatialLayer):
    """`z = Cᵀ x + b`, then σ, with C the convolution from the output's shape to the input's (`mirror`).

    `weight` is `(c_in, c_out / groups, k, k)`. W is Cᵀ, its adjoint C, and `⟨∂L/∂z, Cᵀx⟩ = ⟨C ∂L/∂z, x⟩`: the gradient
    of the weights is C's, with the derivative as its input and x in the place of the derivative.

    Attributes:
        stride: Rows and columns.
        padding: Of C, rows and columns.
        dilation: Rows and columns.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def read(cls, name: str, module: nn.Module, in_shape: Shape, like: Tensor) -> Self:
        """See `Layer`."""
        assert isinstance(module, nn.ConvTranspose2d)
        refuse_channels(name, module.in_channels, in_shape)
        geometry = pair(module.stride), pair(module.padding), pair(module.dilation)
        axes = zip(in_shape[1:], module.kernel_size, *geometry, pair(module.output_padding), strict=True)
        size = ((s - 1) * t - 2 * p + d * (k - 1) + more + 1 for s, k, t, p, d, more in axes)
        out_shape = (module.out_channels, *size)
        refuse_empty(name, in_shape, out_shape)
        return cls(name, module.weight, module.bias, in_shape, out_shape, module.groups, *geometry)

    @cached_property
    def mirror(self) -> Convolution:
        """C."""
        shapes = self.out_shape, self.in_shape
        return Convolution(self.name, self.weight, None, *shapes, self.groups, self.stride, self.padding, self.dilation)

    def __call__(self, x: Tensor) -> Tensor:
        """z of inputs `(B, c_in, H, W)`."""
        z = self.mirror.adjoint(x)
        return z if self.bias is None else z + self.bias[:, None, None]

    def adjoint(self, dz: Tensor) -> Tensor:
        """See `Layer`; `(B, c_in, H, W)`."""
        return self.mirror(dz)

    def weight_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See `Layer`."""
        return self.mirror.weight_gradient(dz, x)

    @property
    def _places(self) -> np.ndarray:
        """Places in w by group, input channel, output channel, tap."""
        c_in, per_group, *kernel = self.weight.shape
        return np.arange(self.weight.numel()).reshape(self.groups, c_in // self.groups, per_group, prod(kernel))

    @property
    def filter_places(self) -> np.ndarray:
        """See `SpatialLayer`."""
        return self._places.transpose(0, 2, 1, 3).reshape(self.out_shape[0], -1)

    @property
    def block_places(self) -> np.ndarray:
        """See `Layer`: rows are (output channel, tap)."""
        places = self._places
        return places.transpose(0, 2, 3, 1).reshape(self.groups, -1, places.shape[1])

    def gradient_block(self, dz: Tensor, group: int = 0) -> np.ndarray:
        """See `Layer`: the windows of C on the derivatives of the group's channels."""
        own = dz[:, group * self.weight.shape[1] : (group + 1) * self.weight.shape[1]]
        c = self.mirror
        return F.unfold(own, c.kernel, c.dilation, c.padding, c.stride)[0].cpu().numpy()

    @cached_property
    def pixels_read(self) -> np.ndarray:
        """See `SpatialLayer`: those that do not fall into the part that padding cuts off altogether."""
        return np.flatnonzero((self.mirror.windows >= 0).any(0))

    def weight_matrix(self, weight: Tensor) -> scipy.sparse.csr_array:
        """See `SpatialLayer`."""
        return self.mirror.weight_matrix(weight).T.tocsr()

    def reads(self, axis: int, outputs: set[int]) -> set[int]:
        """See `SpatialLayer`."""
        return {p for p in range(self.in_shape[1 + axis]) if self.mirror.reads(axis, {p}) & outputs}

    def rank_bound(self, shared: bool) -> RankBound:
        """The bound (*) of `convolution_rank`, whose identities hold here too, without outputs that nothing reaches."""
        groups, (c_in, per_group, *kernel) = self.groups, self.weight.shape
        read, taps = self.in_shape[0] * self.pixels_read.size, c_in // groups * prod(kernel)
        reached = self.mirror.pixels_read.size
        q, r = min(per_group, taps), min(per_group, reached) if shared else 0
        return RankBound(groups * min(read // groups, q * reached + r * (taps - q)), read)

    def one_group(self) -> Self:
        """See `SpatialLayer`."""
        (c_in, *size), (c_out, *places), groups = self.in_shape, self.out_shape, self.groups
        in_shape, out_shape = (c_in // groups, *size), (c_out // groups, *places)
        return replace(self, weight=self.weight[: c_in // groups], in_shape=in_shape, out_shape=out_shape, groups=1)

    def rebuilt(self, in_shape: Shape) -> Self | None:
        """See `SpatialLayer`."""
        c_in, per_group, *kernel = self.weight.shape
        if self.groups > 1 and c_in != in_shape[0]:
            return None
        grown = ((b - a) * t for a, b, t in zip(self.in_shape[1:], in_shape[1:], self.stride, strict=True))
        size = [s + more for s, more in zip(self.out_shape[1:], grown, strict=True)]
        weight = self.weight.new_empty(in_shape[0], per_group, *kernel, device="meta")
        out_shape = (self.out_shape[0], *size)
        return replace(self, weight=weight, in_shape=in_shape, out_shape=out_shape) if min(size) > 0 else None
