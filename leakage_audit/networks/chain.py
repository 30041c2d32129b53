"""Any image classifier read as a chain of layers, or a sentence that says why it cannot be.

The paper's sweep needs the network as `σ_d(W_d … σ_1(W_1 x))`: linear layers, each followed by one elementwise
activation. `torch.fx` gives the operations of the forward pass, whether written as modules or as functions; each is
read here as one link of the chain.
"""

import math
from dataclasses import replace

import torch
from torch import fx, nn

from leakage_audit.networks import activations
from leakage_audit.networks.activations import IDENTITY, Activation
from leakage_audit.networks.layer_types import FUNCTIONS, Layer, UnreadableNetwork, type_of

__all__ = ["UnreadableNetwork", "read_chain"]

_PASS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_NAMES = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
_TYPE_NAMES = {"float", "double", "half", "bfloat16", "to", "type", "type_as", "contiguous"}
_PASS_NAMES = _DROPOUT_NAMES | _TYPE_NAMES
_SIZES = {"size", "getattr", "dim", "numel"}
_MAXIMUM = "which entry was the maximum is not in the gradients, so max pooling has no linear system"
_WHY = {
    nn.MaxPool2d: _MAXIMUM,
    nn.AdaptiveMaxPool2d: _MAXIMUM,
    nn.BatchNorm2d: "batch normalisation couples the images of a batch; the layer-wise equations do not hold",
    nn.BatchNorm1d: "batch normalisation couples the images of a batch; the layer-wise equations do not hold",
    nn.LayerNorm: "its scale depends on the whole input, so it is not linear",
    nn.GroupNorm: "its scale depends on the whole input, so it is not linear",
    nn.InstanceNorm2d: "its scale depends on the whole input, so it is not linear",
    nn.PReLU: "its learned slope is shared by every unit; use LeakyReLU",
}


def read_chain(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Read a classifier as a chain of layers, from the image up.

    Args:
        network: Maps `(B, C, H, W)` to class scores; modules or functions, dropout is read as the identity.
        input_shape: `(C, H, W)` of one image.

    Returns:
        The layers, each with its activation.

    Example:
        >>> from leakage_audit.models import build
        >>> [(layer.name, layer.activation.name) for layer in read_chain(build("cnn2_v1"), (3, 32, 32))]
        [('conv1', 'tanh'), ('fc', 'identity')]

    Raises:
        UnreadableNetwork: If an operation is neither a layer type (convolution, transposed convolution, average
            pooling, fully connected), activation, flattening nor dropout, if the data flow branches, or if the last
            layer is not fully connected.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:  # fx raises many kinds; all mean that the forward pass cannot be followed
        raise UnreadableNetwork(f"the forward pass of {type(network).__name__} cannot be followed: {error}") from error
    reader = _Reader(network, tuple(input_shape))
    for node in graph.nodes:
        reader.read(node)
    if not reader.layers or reader.layers[-1].spatial:
        raise UnreadableNetwork("the last layer must be fully connected: Lemma 3.1 starts there")
    return tuple(reader.layers)


class _Reader:
    """Follows the one tensor that runs through the network."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self.modules = dict(network.named_modules())
        self.shape = shape
        self.layers: list[Layer] = []
        self.data: list[fx.Node] = []  # the nodes that hold image data, in order; the last one is the chain's end
        self.like = next(network.parameters(), torch.ones(()))
        self.activated = True  # an activation needs a layer before it, and only one may follow each

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.data = self.data or [node]
            return
        inputs = [n for n in node.all_input_nodes if n in self.data]
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if not inputs or (node.op != "call_module" and name in _SIZES):
            return  # sizes and constants
        if len(inputs) > 1:
            raise UnreadableNetwork(f"{node.name}: two paths join here (a residual connection?); a chain has only one")
        if inputs[0] is not self.data[-1]:
            raise UnreadableNetwork(f"{node.name}: the data flow branches here; a chain of layers has no side path")
        if node.op == "call_module":
            self._module(name, self.modules[name])
        elif node.op != "output":
            self._function(name, node)
        elif node.args[0] is not inputs[0]:
            raise UnreadableNetwork("the network must return one tensor of class scores")
        self.data.append(node)

    def _module(self, name: str, module: nn.Module) -> None:
        activation = activations.from_module(module)
        if activation is not None:
            self._activate(name, activation)
        elif type_of(module) is not None:
            self._layer(name, module)
        elif isinstance(module, nn.Flatten):
            self._flatten(name, module.start_dim, module.end_dim)
        elif not isinstance(module, _PASS):
            reason = _WHY.get(type(module), "no layer system is known for it")
            raise UnreadableNetwork(f"{name} ({type(module).__name__}): {reason}")

    def _function(self, name: str, node: fx.Node) -> None:
        arguments, keywords = node.args[1:], node.kwargs
        activation = activations.from_function(name, arguments, keywords)
        if activation is not None:
            self._activate(name, activation)
        elif name in FUNCTIONS:
            self._layer(node.name, FUNCTIONS[name](*arguments, **{k: v for k, v in keywords.items() if k != "input"}))
        elif name == "flatten":
            start = arguments[0] if arguments else keywords.get("start_dim", 0)
            end = arguments[1] if len(arguments) > 1 else keywords.get("end_dim", -1)
            self._flatten(node.name, int(start), int(end))  # type: ignore[arg-type]
        elif name in ("view", "reshape"):
            sizes = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments
            if len(sizes) != 2:
                raise UnreadableNetwork(f"{node.name}: only reshaping to (batch, features) is supported, got {sizes}")
            self.shape = (math.prod(self.shape),)
        elif name not in _PASS_NAMES:
            reason = _MAXIMUM if "max_pool" in name else "no layer system is known for this operation"
            raise UnreadableNetwork(f"{node.name} ({name}): {reason}")

    def _activate(self, name: str, activation: Activation) -> None:
        if activation is IDENTITY:
            return
        if self.activated:
            raise UnreadableNetwork(f"{name} ({activation.name}): an activation must follow a linear layer directly")
        self.layers[-1] = replace(self.layers[-1], activation=activation)
        self.activated = True

    def _layer(self, name: str, module: nn.Module) -> None:
        kind = type_of(module)
        assert kind is not None  # the caller has looked
        refusal = kind.refusal(module, self.shape)
        if refusal:
            raise UnreadableNetwork(f"{name}: {refusal}")
        layer = kind.read(name, module, self.shape, self.like)
        if any(layer.name == other.name for other in self.layers):
            raise UnreadableNetwork(f"{name}: used twice; its gradient adds two uses, which no system separates")
        if any(layer.weight is other.weight for other in self.layers):
            raise UnreadableNetwork(f"{name}: its weight is another layer's too; the gradient adds the two uses")
        if not layer.spatial and self.layers and self.layers[-1].spatial:
            layer = replace(layer, in_shape=self.layers[-1].out_shape)
        self.layers.append(layer)
        self.shape, self.activated = layer.out_shape, False

    def _flatten(self, name: str, start: int, end: int) -> None:
        if start != 1 or end not in (-1, len(self.shape)):
            raise UnreadableNetwork(f"{name}: only flattening everything but the batch is supported")
        self.shape = (math.prod(self.shape),)
