"""A network as a graph of operations, each of which can be run, and differentiated, by itself.

What lies between an image and its scores is read by `torch.fx`, an operation a node. Nothing is assumed of what an
operation does: values and derivatives are those that it has when it is called.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

Values = Mapping[fx.Node, Tensor]


class Dataflow:
    """The operations of a network's forward pass, in the order of execution.

    Args:
        network: The classifier, in the modes of the observed step; its modules are shared, not copied, and it should
            keep no running statistics (`stateless`).
        graph: Its forward pass, by `trace`.

    Attributes:
        nodes: All operations.
        image: The one that stands for the network's input.
        end: The one that gives the scores.

    Example:
        >>> flow = read_dataflow(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        >>> [flow.fed(name).name for name in ("0", "2")]
        ['input_1', '_1']
    """

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        self.network, self.nodes = network, list(graph.nodes)
        self.image = next(node for node in self.nodes if node.op == "placeholder" and node.users)
        self.end = next(node for node in self.nodes if node.op == "output").all_input_nodes[0]
        self._modules = dict(network.named_modules())
        self._calls: dict[str, list[fx.Node]] = {}
        for node in self.nodes:
            if node.op == "call_module":
                self._calls.setdefault(str(node.target), []).append(node)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that an operation calls; None if it is a function."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def call(self, layer: str) -> fx.Node | None:
        """The one operation that calls a module; None if there is none or several."""
        calls = self._calls.get(layer, [])
        return calls[0] if len(calls) == 1 else None

    def fed(self, layer: str) -> fx.Node | None:
        """What a module is called on, where it is called once and on one tensor."""
        call = self.call(layer)
        return call.all_input_nodes[0] if call is not None and len(call.all_input_nodes) == 1 else None

    def run(self, node: fx.Node, inputs: Values) -> Tensor:
        """One operation's output; its inputs are left as they are, even by operations that work in place."""

        def value(other: fx.Node) -> Any:
            if other not in inputs:
                return self._attribute(other)
            known = inputs[other]
            return known.clone() if isinstance(known, Tensor) else known  # a shape, or a number of it

        args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
        if node.op == "call_module":
            return self._modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        return self._attribute(node)  # type: ignore[return-value]

    def forward(self, known: Values, as_far_as: fx.Node | None = None) -> dict[fx.Node, Tensor]:
        """All values that follow from those known, these among them.

        Args:
            known: Values of some operations.
            as_far_as: The last operation wanted; all by default.
        """
        found = dict(known)
        for node in self.nodes:
            inputs = node.all_input_nodes
            if node not in found and node.op.startswith("call") and self._all_known(inputs, found):
                found[node] = self.run(node, found)
            if node is as_far_as:
                break
        return found

    def pull_back(self, node: fx.Node, inputs: Values, derivative: Tensor) -> dict[fx.Node, Tensor]:
        """∂L/∂(inputs of an operation) at given inputs, from ∂L/∂(its output)."""
        own = {n: inputs[n].detach().requires_grad_() for n in node.all_input_nodes if is_differentiable(inputs.get(n))}
        with torch.enable_grad():
            output = self.run(node, {**inputs, **own})
            found = torch.autograd.grad(output, list(own.values()), derivative, allow_unused=True)
        return {n: torch.zeros_like(own[n]) if g is None else g for n, g in zip(own, found, strict=True)}

    def above(self, node: fx.Node) -> set[fx.Node]:
        """The operations that depend on another one."""
        found = {node}
        for other in self.nodes:
            if any(n in found for n in other.all_input_nodes):
                found.add(other)
        return found - {node}

    def is_cut(self, node: fx.Node) -> bool:
        """Whether the scores depend on the image by way of this operation alone."""
        around = {self.image}
        for other in self.nodes:
            if other is not node and any(n in around for n in other.all_input_nodes):
                around.add(other)
        return node in self.nodes and self.end not in around and self.end in self.above(node) | {node}

    def _all_known(self, inputs: Sequence[fx.Node], known: Values) -> bool:
        return all(n in known or n.op == "get_attr" for n in inputs) and any(n in known for n in inputs)

    def _attribute(self, node: fx.Node) -> object:
        """A parameter or buffer that the network's own forward pass reads."""
        value: object = self.network
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value


def is_differentiable(value: object) -> bool:
    """Whether an operation's output is a tensor of real numbers; shapes and places are not."""
    return isinstance(value, Tensor) and value.is_floating_point()


def read_dataflow(network: nn.Module) -> Dataflow | None:
    """The network's operations; None if `torch.fx` cannot follow its forward pass."""
    graph = trace(network)
    if graph is None or sum(node.op == "placeholder" and bool(node.users) for node in graph.nodes) != 1:
        return None
    end = next((node for node in graph.nodes if node.op == "output"), None)
    return Dataflow(network, graph) if end is not None and len(end.all_input_nodes) == 1 else None


def trace(network: nn.Module) -> fx.Graph | None:
    """A network's forward pass; None if `torch.fx` cannot follow it."""
    try:
        return fx.Tracer().trace(network)
    except Exception:  # fx raises many kinds; all mean that the forward pass cannot be followed
        return None
