"""Convolutions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Self

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.networks.layer_types.base import RankBound, Shape, SpatialLayer, pair, refuse_channels, refuse_empty
from leakage_audit.networks.layer_types.convolution_gram import gram_rows
from leakage_audit.networks.layer_types.convolution_rank import convolution_rank


@dataclass(frozen=True)
class Convolution(SpatialLayer):
    """A linear map of feature maps, `z = W x + b`, then σ.

    `weight` are the filters w, `(c_out, c_in / groups, k, k)`.

    Attributes:
        stride: Rows and columns.
        padding: Zeros around the input, rows and columns.
        dilation: Rows and columns.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def read(cls, name: str, module: nn.Module, in_shape: Shape, like: Tensor) -> Self:
        """See `Layer`; padding of every mode is read as zeros (see `refusal`)."""
        assert isinstance(module, nn.Conv2d)
        padding = module.padding
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            padding = tuple(t // 2 if padding == "same" else 0 for t in total)
        geometry = pair(module.stride), pair(padding), pair(module.dilation)
        refuse_channels(name, module.in_channels, in_shape)
        out_shape = _out_shape(in_shape, module.weight.shape, *geometry)
        refuse_empty(name, in_shape, out_shape)
        return cls(name, module.weight, module.bias, in_shape, out_shape, module.groups, *geometry)

    @classmethod
    def refusal(cls, module: nn.Module, in_shape: Shape) -> str:
        """See `Layer`."""
        assert isinstance(module, nn.Conv2d)
        if module.padding_mode != "zeros":
            return f"padding_mode {module.padding_mode!r} is not supported, only 'zeros'"
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if module.padding == "same" and any(t % 2 for t in total):
            return f"padding 'same' is uneven for kernel {module.kernel_size}"
        return ""

    @property
    def kernel(self) -> tuple[int, int]:
        """Its rows and columns."""
        return pair(self.weight.shape[2:])

    def __call__(self, x: Tensor) -> Tensor:
        """z of inputs `(B, c_in, H, W)`."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, dz: Tensor) -> Tensor:
        """See `Layer`; `(B, c_in, H, W)`."""
        spare = []
        for i in (0, 1):
            covered = (self.out_shape[1 + i] - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            spare.append(self.in_shape[1 + i] + 2 * self.padding[i] - covered)
        geometry = self.stride, self.padding, tuple(spare), self.groups, self.dilation
        return F.conv_transpose2d(dz, self.weight, None, *geometry)

    def weight_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See `Layer`; in operations that `torch.func` maps without a detour, unlike `torch.nn.grad.conv2d_weight`."""
        windows = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)[0]
        windows = windows.reshape(self.groups, -1, windows.shape[-1])
        return (dz.reshape(self.groups, -1, windows.shape[-1]) @ windows.mT).reshape(self.weight.shape)

    @cached_property
    def windows(self) -> np.ndarray:
        """Which pixel (row · W + column, -1 in the padding) each tap of each window reads, `(k·k, H'·W')`."""
        _, height, width = self.in_shape
        pixels = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
        return F.unfold(pixels, self.kernel, self.dilation, self.padding, self.stride)[0].long().numpy() - 1

    @cached_property
    def pixels_read(self) -> np.ndarray:
        """See `SpatialLayer`."""
        return np.unique(self.windows[self.windows >= 0])

    @property
    def filter_places(self) -> np.ndarray:
        """See `SpatialLayer`."""
        return np.arange(self.weight.numel()).reshape(self.out_shape[0], -1)

    @property
    def block_places(self) -> np.ndarray:
        """See `Layer`: rows are (filter, tap)."""
        c_out, c_in, *kernel = self.weight.shape
        places = np.arange(self.weight.numel()).reshape(self.groups, c_out // self.groups, c_in, prod(kernel))
        return places.transpose(0, 1, 3, 2).reshape(self.groups, -1, c_in)

    def weight_matrix(self, weight: Tensor) -> scipy.sparse.csr_array:
        """See `SpatialLayer`."""
        c_out, c_in, *_ = weight.shape
        taps, places = self.windows.shape
        pixels = prod(self.in_shape[1:])
        o, c, _, p = np.ogrid[:c_out, :c_in, :taps, :places]
        channel = o // (c_out // self.groups) * c_in + c
        shape = (c_out, c_in, taps, places)
        rows, columns = np.broadcast_to(o * places + p, shape), channel * pixels + self.windows
        values = np.broadcast_to(weight.reshape(c_out, c_in, taps, 1).cpu().numpy(), shape)
        inside = np.broadcast_to(self.windows >= 0, shape)
        entries = (values[inside], (rows[inside], columns[inside]))
        return scipy.sparse.csr_array(entries, shape=(c_out * places, prod(self.in_shape)))

    def gradient_block(self, dz: Tensor, group: int = 0) -> np.ndarray:
        """See `Layer`."""
        per_group = self.weight.shape[0] // self.groups
        own = dz[0, group * per_group : (group + 1) * per_group].reshape(per_group, 1, -1).cpu().numpy()
        taps, places = self.windows.shape
        block = np.zeros((per_group, taps, prod(self.in_shape[1:]) + 1), dtype=own.dtype)
        # Distinct places of one tap read distinct pixels, so nothing is overwritten; -1 lands in the spare column.
        o, t, _ = np.ogrid[:per_group, :taps, :places]
        block[o, t, self.windows[None]] = own
        return block[..., :-1].reshape(per_group * taps, -1)

    def gram_rows(self, weight: Tensor) -> np.ndarray:
        """See `SpatialLayer`; from products of filters."""
        geometry = self.stride, self.padding, self.dilation
        return gram_rows(weight, self.in_shape, self.out_shape, self.groups, *geometry)

    def reads(self, axis: int, outputs: set[int]) -> set[int]:
        """See `SpatialLayer`."""
        taps = range(self.kernel[axis])
        found = {self.stride[axis] * p + self.dilation[axis] * t - self.padding[axis] for p in outputs for t in taps}
        return found & set(range(self.in_shape[1 + axis]))

    def rank_bound(self, shared: bool) -> RankBound:
        """See `SpatialLayer`."""
        shapes = self.in_shape, tuple(self.weight.shape)
        return RankBound(*convolution_rank(*shapes, self.groups, self.stride, self.padding, self.dilation, shared))

    def one_group(self) -> Self:
        """See `SpatialLayer`."""
        (c_in, *size), (c_out, *places), groups = self.in_shape, self.out_shape, self.groups
        in_shape, out_shape = (c_in // groups, *size), (c_out // groups, *places)
        return replace(self, weight=self.weight[: c_out // groups], in_shape=in_shape, out_shape=out_shape, groups=1)

    def rebuilt(self, in_shape: Shape) -> Self | None:
        """See `SpatialLayer`."""
        c_out, c_in, *kernel = self.weight.shape
        if self.groups > 1 and c_in * self.groups != in_shape[0]:
            return None
        weight = torch.empty(c_out, in_shape[0] // self.groups, *kernel, device="meta")
        out_shape = _out_shape(in_shape, weight.shape, self.stride, self.padding, self.dilation)
        return replace(self, weight=weight, in_shape=in_shape, out_shape=out_shape) if min(out_shape) > 0 else None

    def variations(self) -> Iterator[tuple[str, Self]]:
        """See `SpatialLayer`: another stride, fewer channels."""
        if self.groups > 1:
            return
        c_out, c_in, *kernel = self.weight.shape
        stride = self.stride[0] + 1, self.stride[1] + 1
        yield f"stride {stride[0]}", replace(self, stride=stride)
        if c_out > 1:
            half = torch.empty(c_out // 2, c_in, *kernel, device="meta")
            yield f"{c_out // 2} channels", replace(self, weight=half, bias=_first(self.bias, half))


def _first(bias: Tensor | None, weight: Tensor) -> Tensor | None:
    return None if bias is None else weight[:, 0, 0, 0]


def _out_shape(
    in_shape: Shape, weight: Shape, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Shape:
    geometry = zip(in_shape[1:], weight[2:], stride, padding, dilation, strict=True)
    return weight[0], *((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in geometry)
