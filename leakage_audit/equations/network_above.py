"""A network cut at one of its layers: the part above as a function of the layer's output, the part as far as it."""

import torch
from torch import Tensor, fx, nn

from leakage_audit.networks.dataflow import trace


def fully_connected_layers(network: nn.Module) -> list[str]:
    """Names of the fully connected layers that the forward pass calls exactly once, in the order of execution.

    Returns:
        Nothing if `torch.fx` cannot follow the forward pass.
    """
    graph = trace(network)
    called = [n.target for n in graph.nodes if n.op == "call_module"] if graph is not None else []
    own = dict(network.named_modules())
    return [str(n) for n in called if isinstance(own.get(str(n)), nn.Linear) and called.count(n) == 1]


def network_above(network: nn.Module, layer: str) -> nn.Module | None:
    """Class scores as a function of the layer's output.

    Args:
        network: The classifier; its modules are shared, not copied.
        layer: Name of a module that it calls once.

    Returns:
        None if the scores depend on the image in another way than through this layer, or `torch.fx` cannot tell.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> above, z = network_above(network, "0"), torch.randn(5, 3)
        >>> bool((above(z) == network[2](z.relu())).all())
        True
    """
    graph = trace(network)
    if graph is None:
        return None
    upper, known = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node.op == "call_module" and node.target == layer:
            known[node] = upper.placeholder("z")
        elif node.op == "get_attr":
            known[node] = upper.node_copy(node)
        elif any(n in known and n.op != "get_attr" for n in node.all_input_nodes):
            if any(n not in known for n in node.all_input_nodes):
                return None  # another path leads around the layer
            known[node] = upper.node_copy(node, lambda n: known[n])
    if not any(node.op == "output" for node in upper.nodes):
        return None
    return fx.GraphModule(network, upper)


def network_below(network: nn.Module, layer: str) -> nn.Module | None:
    """The layer's output as a function of the image: a network that ends in this layer.

    Args:
        network: The classifier; its modules are shared, not copied, and keep their names.
        layer: Name of a module that it calls once.

    Returns:
        None if what lies above uses a parameter again, whose gradient is then no derivative by way of this part
        alone, or if `torch.fx` cannot tell.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> below, x = network_below(network, "1"), torch.randn(5, 1, 2, 2)
        >>> bool((below(x) == network[:2](x)).all()), [name for name, _ in below.named_parameters()]
        (True, ['1.weight', '1.bias'])
    """
    graph = trace(network)
    nodes = [] if graph is None else list(graph.nodes)
    place = next((i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == layer), None)
    if place is None:
        return None
    lower, known = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in nodes[: place + 1]:
        known[node] = lower.node_copy(node, lambda n: known[n])
    lower.output(known[nodes[place]])
    below = fx.GraphModule(network, lower)
    below.graph.eliminate_dead_code()
    below.delete_all_unused_submodules()
    below.recompile()
    above = {id(p) for node in nodes[place + 1 :] for p in _parameters(network, node)}
    return None if any(id(p) in above for p in below.parameters()) else below


def rectifies(above: nn.Module, width: int, like: Tensor) -> bool:
    """Whether derivatives at the layer's output have exact zeros, image by image, the same at each call.

    Batch normalisation in training mode couples the images, dropout in training mode draws anew, smooth activations
    have no zeros: at such layers nothing can be told apart by zeros.
    """
    z = torch.randn(4, width, generator=torch.Generator().manual_seed(0), dtype=like.dtype).to(like.device)
    try:
        scores = above(z)
        if scores.ndim != 2 or len(scores) != 4:
            return False
        again, alone = above(z), above(z[:2])
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    same = torch.allclose(again, scores) and torch.allclose(alone, scores[:2], rtol=1e-6, atol=1e-9)
    return same and bool((active(above, z) == 0).any())


def active(above: nn.Module, z: Tensor) -> Tensor:
    """Which entries of `z (N, width)` the scores depend on, as far as a derivative in a random direction tells."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        scores = above(z)
        direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype).to(z.device)
        return torch.autograd.grad((scores * direction).sum(), z)[0] != 0


def _parameters(network: nn.Module, node: fx.Node) -> list[nn.Parameter]:
    """Those that an operation of the forward pass uses."""
    if node.op == "call_module":
        return list(network.get_submodule(str(node.target)).parameters())
    if node.op != "get_attr":
        return []
    return [p for name, p in network.named_parameters(remove_duplicate=False) if name == node.target]
