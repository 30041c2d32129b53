"""The convolutions that an image meets on its way through any network, chain or not."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leakage_audit.networks.layer_types import SpatialLayer, type_of


def convolutions_met(network: nn.Module, input_shape: tuple[int, int, int]) -> list[SpatialLayer]:
    """Send one image through and note each convolution with its shapes, in the order of use.

    Args:
        network: Any network; left in the modes it is in.
        input_shape: `(C, H, W)` of one image.

    Returns:
        Convolutions of all types; padding of every mode is read as zeros.

    Raises:
        ValueError: If the network does not accept images of this shape.
    """
    met: list[SpatialLayer] = []
    parameter = next(network.parameters(), torch.zeros(()))

    def note(name: str, kind: type[SpatialLayer]) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            layer = kind.read(name, module, tuple(inputs[0].shape[1:]), parameter)
            met.append(replace(layer, out_shape=tuple(output.shape[1:])))

        return hook

    handles = []
    for name, module in network.named_modules():
        kind = type_of(module)
        if kind is not None and issubclass(kind, SpatialLayer) and next(module.parameters(), None) is not None:
            handles.append(module.register_forward_hook(note(name, kind)))
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{type(network).__name__} does not accept images of shape {input_shape}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return met
