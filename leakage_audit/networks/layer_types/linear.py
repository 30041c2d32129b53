"""Fully connected layers: one position, whose input Lemma 3.1 gives away."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.networks.layer_types.base import Layer, Shape, UnreadableNetwork


@dataclass(frozen=True)
class Linear(Layer):
    """`z = W x + b`, then σ; `weight` is W, `(out, in)`, and `in_shape` that of its input before flattening."""

    spatial: ClassVar[bool] = False

    @classmethod
    def read(cls, name: str, module: nn.Module, in_shape: Shape, like: Tensor) -> Self:
        """See `Layer`."""
        assert isinstance(module, nn.Linear)
        if len(in_shape) != 1 or in_shape[0] != module.in_features:
            raise UnreadableNetwork(f"{name}: expects {module.in_features} features, gets {in_shape}: flatten first")
        return cls(name, module.weight, module.bias, in_shape, (module.out_features,))

    def __call__(self, x: Tensor) -> Tensor:
        """z of inputs `(B, …)`, flattened."""
        return F.linear(x.flatten(1), self.weight, self.bias)

    def adjoint(self, dz: Tensor) -> Tensor:
        """See `Layer`; `(B, in)`."""
        return dz @ self.weight

    def weight_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See `Layer`."""
        return dz.mT @ x.flatten(1)

    @property
    def block_places(self) -> np.ndarray:
        """See `Layer`: every input is a channel of one position."""
        return np.arange(self.weight.numel()).reshape(1, self.out_shape[0], prod(self.in_shape))

    def gradient_block(self, dz: Tensor, group: int = 0) -> np.ndarray:
        """See `Layer`: δ, `(out, 1)`."""
        return dz[0, :, None].cpu().numpy()
