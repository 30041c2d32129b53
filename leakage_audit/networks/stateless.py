"""A network as a function of the image alone."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.networks.double_backward import differentiable_twice
from leakage_audit.observation import copy_network


def stateless(network: nn.Module) -> nn.Module:
    """A copy that calls no random numbers and keeps no running statistics, in the modes of the observed step."""
    network = differentiable_twice(copy_network(network).requires_grad_(False))
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.training:
            module.running_mean = module.running_var = module.num_batches_tracked = None
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return network


def graph_size(network: nn.Module, run: Callable[[], object], gradients: Iterable[Tensor]) -> int:
    """About how many numbers a gradient with the graph of its derivative keeps: all there is, forth and back twice.

    Args:
        network: Called by `run`.
        run: Runs it once.
        gradients: Of the parameters that are differentiated by, or tensors of their sizes.
    """
    return 8 * activation_count(network, run) + 4 * sum(g.numel() for g in gradients)


def activation_count(network: nn.Module, run: Callable[[], object]) -> int:
    """How many numbers the network's innermost modules put out during `run`."""
    outputs: list[int] = []

    def count(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append(output.numel())

    handles = [m.register_forward_hook(count) for m in network.modules() if not list(m.children())]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return sum(outputs)
