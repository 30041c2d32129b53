"""Average pooling: a convolution of each channel with fixed weights."""

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from leakage_audit.networks.layer_types.base import RankBound, Shape, pair
from leakage_audit.networks.layer_types.convolution import Convolution


@dataclass(frozen=True)
class AveragePooling(Convolution):
    """A convolution whose filters are all 1/k², one a channel, and no parameters."""

    @classmethod
    def read(cls, name: str, module: nn.Module, in_shape: Shape, like: Tensor) -> Self:
        """See `Layer`."""
        kernel, stride, padding = _geometry(module, in_shape)
        c = in_shape[0]
        weight = torch.full((c, 1, *kernel), 1 / prod(kernel), dtype=like.dtype, device=like.device)
        convolution = nn.Conv2d(c, c, kernel, stride, padding, groups=c, bias=False, device="meta")
        return replace(super().read(name, convolution, in_shape, like), weight=weight, learned=False)

    @classmethod
    def refusal(cls, module: nn.Module, in_shape: Shape) -> str:
        """See `Layer`."""
        if len(in_shape) != 3:
            return f"pooling needs feature maps, gets shape {in_shape}"
        if isinstance(module, nn.AdaptiveAvgPool2d):
            sizes = _sizes(module, in_shape)
            if any(s % o for s, o in zip(in_shape[1:], sizes, strict=True)):
                return f"pooling {in_shape[1:]} to {sizes} has windows of unequal size"
            return ""
        assert isinstance(module, nn.AvgPool2d)
        kernel, stride, padding = _geometry(module, in_shape)
        if module.divisor_override is not None:
            return "average pooling with divisor_override is not supported"
        if not module.count_include_pad and padding != (0, 0):
            return "average pooling with count_include_pad=False is not supported"
        axes = zip(in_shape[1:], kernel, stride, padding, strict=False)
        if module.ceil_mode and any((s + 2 * p - k) % t for s, k, t, p in axes):
            return "average pooling with ceil_mode over an incomplete window is not supported"
        return ""

    def rank_bound(self, shared: bool) -> RankBound:
        """A pooling is `I ⊗ A_h ⊗ A_w`, and the rank of a Kronecker product is the product of the ranks."""
        ranks = []
        for i in (0, 1):
            pixels, windows = self.in_shape[1 + i], self.out_shape[1 + i]
            gap = np.arange(pixels)[None] - self.stride[i] * np.arange(windows)[:, None] + self.padding[i]
            ranks.append(int(np.linalg.matrix_rank(((gap >= 0) & (gap < self.kernel[i])).astype(float))))
        return RankBound(self.in_shape[0] * prod(ranks), super().rank_bound(False).read, "pooling")

    def rebuilt(self, in_shape: Shape) -> Self | None:
        """See `SpatialLayer`: as many filters as there are channels."""
        weight = torch.empty(in_shape[0], 1, *self.kernel, device="meta")
        return super(AveragePooling, replace(self, weight=weight, groups=in_shape[0])).rebuilt(in_shape)


def _geometry(module: nn.Module, in_shape: Shape) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        kernel = pair([s // o for s, o in zip(in_shape[1:], _sizes(module, in_shape), strict=True)])
        return kernel, kernel, (0, 0)
    assert isinstance(module, nn.AvgPool2d)
    return pair(module.kernel_size), pair(module.stride or module.kernel_size), pair(module.padding)


def _sizes(module: nn.AdaptiveAvgPool2d, in_shape: Shape) -> tuple[int, int]:
    return pair([s if o is None else o for s, o in zip(in_shape[1:], pair(module.output_size), strict=True)])
