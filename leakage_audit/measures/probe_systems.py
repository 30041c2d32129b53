"""The layer systems of a network at an image that one knows: no walk back, no inverse of an activation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.networks.layer_types import Layer, SpatialLayer
from leakage_audit.observation import Loss


def systems_at(chain: Sequence[Layer], x: Tensor, labels: Tensor, loss: Loss) -> list[LayerSystem]:
    """Every convolution's `u x = v` when the network sees `x`, from the image up.

    Args:
        chain: The network's layers.
        x: One input of the network, `(1, C, H, W)`, in the type of the chain's weights.
        labels: Its class, `(1,)`.
        loss: `loss(scores, labels)`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pre_activations: list[Tensor] = []
        h = x
        for layer in chain:
            z = layer(h).requires_grad_()
            pre_activations.append(z)
            h = layer.activation.forward(z)
        derivatives = torch.autograd.grad(loss(h, labels), pre_activations)
    systems = []
    for layer, z, dz in zip(chain, pre_activations, derivatives, strict=True):
        if isinstance(layer, SpatialLayer):
            seen = layer.weight if layer.learned else None  # u needs its gradient's shape only
            systems.append(LayerSystem(layer, dz[0], z.detach()[0], seen))
    return systems
