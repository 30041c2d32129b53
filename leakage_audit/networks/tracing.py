"""The convolutions that an image meets on its way through any network, chain or not."""

from typing import Any

import torch
from torch import Tensor, nn

from leakage_audit.networks.layers import Convolution


def convolutions_met(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Convolution]:
    """Send one image through and note each convolution with its shapes, in the order of use.

    Args:
        network: Any network; left in the modes it is in.
        input_shape: `(C, H, W)` of one image.

    Raises:
        ValueError: If the network does not accept images of this shape.
    """
    met: list[Convolution] = []

    def note(name: str) -> Any:
        def hook(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            padding = module.padding if not isinstance(module.padding, str) else _same(module)
            (_, *in_shape), (_, *out_shape) = inputs[0].shape, output.shape
            met.append(
                Convolution(
                    name,
                    module.weight,
                    module.bias,
                    _pair(module.stride),
                    _pair(padding),
                    _pair(module.dilation),
                    module.groups,
                    _triple(in_shape),
                    _triple(out_shape),
                )
            )

        return hook

    modules = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    handles = [module.register_forward_hook(note(name)) for name, module in modules]
    parameter = next(network.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{type(network).__name__} does not accept images of shape {input_shape}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return met


def _same(module: nn.Conv2d) -> tuple[int, int]:
    if module.padding == "valid":
        return 0, 0
    height, width = (d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    return height, width


def _triple(shape: list[int]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    height, width = value
    return height, width
