"""The links of a chain: a linear map, then one elementwise activation."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from leakage_audit.networks.activations import IDENTITY, Activation


@dataclass(frozen=True)
class Convolution:
    """A linear map of feature maps, `z = W x + b`, then σ; average pooling is one with fixed weights.

    Attributes:
        name: The module's path in the network.
        weight: The filters w, `(c_out, c_in / groups, k, k)`.
        bias: b, `(c_out,)`, or None.
        stride: Rows and columns.
        padding: Zeros around the input, rows and columns.
        dilation: Rows and columns.
        groups: Channel groups.
        in_shape: `(c_in, H, W)`; its product is the paper's n.
        out_shape: `(c_out, H', W')`; its product is |z|.
        learned: Whether the filters are parameters (a pooling's are not).
        activation: σ.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    learned: bool = True
    activation: Activation = IDENTITY

    def __call__(self, x: Tensor) -> Tensor:
        """z of inputs `(B, c_in, H, W)`."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class Linear:
    """A fully connected layer, `z = W x + b`, then σ.

    Attributes:
        name: The module's path in the network.
        weight: W, `(out, in)`.
        bias: b, `(out,)`, or None.
        in_shape: Shape of its input before flattening.
        activation: σ.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    in_shape: tuple[int, ...]
    activation: Activation = IDENTITY

    def __call__(self, x: Tensor) -> Tensor:
        """z of inputs `(B, …)`, flattened."""
        return F.linear(x.flatten(1), self.weight, self.bias)


Layer = Convolution | Linear
