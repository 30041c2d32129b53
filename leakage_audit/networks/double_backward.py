"""Gradients are compared by differentiating them again: what torch cannot, in parts that it can."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class _Hardsigmoid(nn.Module):
    """`relu6(x + 3)/6`."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.relu6(x + 3) / 6


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention in elementary operations: torch's fused ones have neither second derivatives nor a forward mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _PlainAttention:
    """Hooks by which a network's every call runs in `plain_attention`; calls may be nested."""

    def __init__(self, network: nn.Module) -> None:
        self._entered: list[AbstractContextManager] = []
        network.register_forward_pre_hook(self.enter)
        network.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, inputs: tuple) -> None:
        context = plain_attention()
        context.__enter__()
        self._entered.append(context)

    def leave(self, module: nn.Module, inputs: tuple, output: object) -> None:
        self._entered.pop().__exit__(None, None, None)


def differentiable_twice(network: nn.Module) -> nn.Module:
    """Replace, in place, what has no second derivative in torch; the network.

    That is `nn.Hardsigmoid`, as in MobileNetV3, and fused attention, whoever calls it.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True).eval()
    >>> x = torch.randn(1, 3, 8, requires_grad=True)
    >>> (g,) = torch.autograd.grad(differentiable_twice(layer)(x).square().sum(), x, create_graph=True)
    >>> torch.autograd.grad(g.square().sum(), x)[0].shape
    torch.Size([1, 3, 8])
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(module, name, _Hardsigmoid())
    _PlainAttention(network)
    return network
