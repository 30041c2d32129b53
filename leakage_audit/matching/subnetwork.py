"""The network from one layer on, and the gradients that an input of that layer would have shared."""

from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.networks.layer_types import Layer
from leakage_audit.observation import Observation


class Subnetwork:
    """Layers i … d of a chain as a function of x⁽ⁱ⁾.

    Args:
        chain: The network's layers, from the image up.
        i: Place of the first layer of the tail.
        seen: What leaked.
        labels: The classes `(1,)` that the attacker works with.

    Attributes:
        targets: The observed gradients of the tail's parameters, in the order of `gradients`.
    """

    def __init__(self, chain: tuple[Layer, ...], i: int, seen: Observation, labels: Tensor) -> None:
        self._loss, self._labels = seen.loss, labels
        self._layers: list[Layer] = []
        self._parameters: list[Tensor] = []
        self.targets: list[Tensor] = []
        for layer in chain[i:]:
            own: dict[str, Tensor] = {}
            for kind in ("weight", "bias"):
                tensor: Tensor | None = getattr(layer, kind)
                target = seen.gradient_of(layer.name, kind)
                if tensor is None:
                    continue
                own[kind] = tensor.detach().clone()
                if target is not None and (kind == "bias" or layer.learned):
                    self._parameters.append(own[kind].requires_grad_())
                    self.targets.append(target)
            self._layers.append(replace(layer, weight=own["weight"], bias=own.get("bias")))

    def gradients(self, x: Tensor) -> tuple[Tensor, ...]:
        """∂L/∂p of the tail's parameters at x⁽ⁱ⁾ `(1, …)`, differentiable with respect to it."""
        for layer in self._layers:
            x = layer.activation.forward(layer(x))
        return torch.autograd.grad(self._loss(x, self._labels), self._parameters, create_graph=True)
