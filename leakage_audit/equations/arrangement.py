"""A layer's input as a matrix, channels × positions: entries of one position meet the same derivatives."""

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn


@dataclass(frozen=True)
class Arrangement:
    """Between the layout of an input, without the batch, and its matrix.

    Attributes:
        shape: Of the input.
        patch: Height and width of the patches that each are a position, with all channels, for a convolution that cuts
            its input into such; None where each pixel is.
        tokens: Whether channels come last, and positions first, as before a fully connected layer.

    >>> import torch
    >>> cut, x = Arrangement.of(nn.Conv2d(3, 8, 2, 2), (3, 4, 6)), torch.randn(3, 4, 6)
    >>> cut.matrix(x).shape, torch.equal(cut.input(cut.matrix(x)), x)
    (torch.Size([12, 6]), True)
    >>> Arrangement.of(nn.Linear(5, 2), (7, 5)).matrix(torch.randn(7, 5)).shape
    torch.Size([5, 7])
    """

    shape: tuple[int, ...]
    patch: tuple[int, int] | None = None
    tokens: bool = False

    @classmethod
    def of(cls, layer: nn.Module, shape: tuple[int, ...]) -> Self:
        """For a layer that is fed inputs of this shape."""
        if isinstance(layer, nn.Linear):
            return cls(tuple(shape), tokens=True)
        if isinstance(layer, nn.Conv2d) and len(shape) == 3:
            height, width = layer.kernel_size
            cut = layer.stride == layer.kernel_size and layer.padding in ((0, 0), "valid") and layer.groups == 1
            if cut and layer.dilation == (1, 1) and not (shape[1] % height or shape[2] % width):
                return cls(tuple(shape), (height, width))
        return cls(tuple(shape))

    @property
    def one_block(self) -> bool:
        """Whether the layer maps each position by itself."""
        return self.tokens or self.patch is not None

    @property
    def layout(self) -> tuple[tuple[int, ...], tuple[int, int], bool]:
        """The same for arrangements that make the same matrix."""
        return self.shape, self.patch or (1, 1), self.tokens

    @property
    def positions(self) -> int:
        """Of one image's input."""
        if self.tokens:
            return math.prod(self.shape[:-1])
        rows, columns = self.patch or (1, 1)
        return math.prod(self.shape[1:]) // (rows * columns)

    def matrix(self, x: Tensor) -> Tensor:
        """An input `shape` to `(channels, positions)`; a fully connected layer's channels are its inputs."""
        if self.tokens:
            return x.reshape(-1, self.shape[-1]).T
        if self.patch is None:
            return x.reshape(self.shape[0], -1)
        (channels, height, width), (rows, columns) = self.shape, self.patch
        cut = x.reshape(channels, height // rows, rows, width // columns, columns)
        return cut.permute(0, 2, 4, 1, 3).reshape(channels * rows * columns, -1)

    def input(self, matrix: Tensor) -> Tensor:
        """Back."""
        if self.tokens:
            return matrix.T.reshape(self.shape)
        if self.patch is None:
            return matrix.reshape(self.shape)
        (channels, height, width), (rows, columns) = self.shape, self.patch
        cut = matrix.reshape(channels, rows, columns, height // rows, width // columns)
        return cut.permute(0, 3, 1, 4, 2).reshape(self.shape)
