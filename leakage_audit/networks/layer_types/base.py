"""What a layer type is: a linear map W, its adjoint and the gradient of its weights, then an elementwise activation.

A type is one file, a subclass of `Layer`, and one row of `layer_types.MODULES`. All that the layer-wise walk and the
measures need of a convolution, transposed or not, is said here once; only its three operations and where each weight
stands are its own.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import ClassVar, Self

import numpy as np
import scipy.sparse
from torch import Tensor, nn

from leakage_audit.networks.activations import IDENTITY, Activation

Shape = tuple[int, ...]


class UnreadableNetwork(ValueError):
    """The network is no chain of known layers; the message names the operation and the reason."""


@dataclass(frozen=True)
class RankBound:
    """What a layer's shape says of the rank of its system.

    Attributes:
        rank: The rank for generic weights and derivatives, or an upper bound.
        read: Number of inputs that some output depends on; the rank is never larger.
        proof: What makes it certain; empty for a mere bound.
    """

    rank: int
    read: int
    proof: str = ""


@dataclass(frozen=True)
class Layer:
    """`z = W x + b`, then σ.

    Attributes:
        name: The module's path in the network.
        weight: The parameters w that W is made of.
        bias: b, one an output channel, or None.
        in_shape: Of the input; its product is the paper's n.
        out_shape: Of the output; its product is |z|.
        learned: Whether w is a parameter (a pooling's is not).
        activation: σ.
        spatial: Whether inputs are feature maps, found by a `LayerSystem`; otherwise Lemma 3.1 alone finds them.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    in_shape: Shape
    out_shape: Shape
    learned: bool = field(default=True, kw_only=True)
    activation: Activation = field(default=IDENTITY, kw_only=True)
    spatial: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def read(cls, name: str, module: nn.Module, in_shape: Shape, like: Tensor) -> Self:
        """The layer that a module is.

        Args:
            name: Its path.
            module: Of the type that `layer_types.MODULES` names.
            in_shape: Of its input, without the batch.
            like: A tensor of the network's type, for weights that are not parameters.

        Raises:
            UnreadableNetwork: If the input does not fit.
        """

    @classmethod
    def refusal(cls, module: nn.Module, in_shape: Shape) -> str:
        """Why a module of this type has no layer system; empty if it has one."""
        return ""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """z of inputs `(B, …)`."""

    @abstractmethod
    def adjoint(self, dz: Tensor) -> Tensor:
        """∂L/∂x = Wᵀ ∂L/∂z, `(B, …)`."""

    @abstractmethod
    def weight_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """∂L/∂w = K x from an input and the derivative at the output, `(1, …)` each, shaped like w."""

    @property
    @abstractmethod
    def block_places(self) -> np.ndarray:
        """Places in w of the rows of K, `(groups, rows of K₀, input channels of a group)`.

        An input channel meets the derivatives of its group's output channels and nothing else, so that K is the same
        block K₀ for each of them.
        """

    @abstractmethod
    def gradient_block(self, dz: Tensor, group: int = 0) -> np.ndarray:
        """K restricted to one input channel of a group, K₀ `(rows, positions)`, for ∂L/∂z `(1, …)`."""


@dataclass(frozen=True)
class SpatialLayer(Layer):
    """A linear map of feature maps `(c_in, H, W)`, with a system `u x = v` of its own."""

    groups: int = 1

    @property
    @abstractmethod
    def filter_places(self) -> np.ndarray:
        """Places in w of the weights that make each output channel, `(c_out, ·)`."""

    @cached_property
    @abstractmethod
    def pixels_read(self) -> np.ndarray:
        """The pixels, row · W + column, that some output depends on."""

    @abstractmethod
    def weight_matrix(self, weight: Tensor) -> scipy.sparse.csr_array:
        """W as a sparse matrix, `(|z|, n)`, for these weights."""

    @abstractmethod
    def reads(self, axis: int, outputs: set[int]) -> set[int]:
        """The pixels along an axis of the input that these places along the output's depend on."""

    @abstractmethod
    def rank_bound(self, shared: bool) -> RankBound:
        """The rank of u by shape; without the filters' gradient (`shared`) K has no rows."""

    @abstractmethod
    def one_group(self) -> Self:
        """One of the groups of channels, which share neither inputs nor equations."""

    @abstractmethod
    def rebuilt(self, in_shape: Shape) -> Self | None:
        """The same layer, weights aside, behind another input; None if it no longer fits."""

    def variations(self) -> Iterator[tuple[str, Self]]:
        """Single changes of the layer that may leave more of its input open, in words; their shapes are yet to fit."""
        yield from ()

    def gram_rows(self, weight: Tensor) -> np.ndarray:
        """Products of W's columns: row y of pixels with row y + Δ, `(reach, H, W, c_in, W, c_in)`."""
        w = self.weight_matrix(weight.double().cpu())
        product = (w.T @ w).tocoo()
        (one, y, x), (two, below, beside) = (np.unravel_index(i, self.in_shape) for i in product.coords)
        step = below - y
        channels, height, width = self.in_shape
        rows = np.zeros((int(step.max(initial=0)) + 1, height, width, channels, width, channels))
        here = step >= 0
        rows[step[here], y[here], x[here], one[here], beside[here], two[here]] = product.data[here]
        return rows


def pair(value: object) -> tuple[int, int]:
    """A number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type, return-value]


def refuse_channels(name: str, expected: int, in_shape: Shape) -> None:
    """Check that an input is `expected` feature maps.

    Raises:
        UnreadableNetwork: If it is not.
    """
    if len(in_shape) != 3 or in_shape[0] != expected:
        raise UnreadableNetwork(f"{name}: expects {expected} channels, gets shape {in_shape}")


def refuse_empty(name: str, in_shape: Shape, out_shape: Shape) -> None:
    """Check that there is an output.

    Raises:
        UnreadableNetwork: If there is none.
    """
    if not prod(out_shape) or min(out_shape) < 1:
        raise UnreadableNetwork(f"{name}: its input {in_shape} is smaller than its kernel")
