"""Any image classifier read as a chain of layers, or a sentence that says why it cannot be.

The paper's sweep needs the network as `σ_d(W_d … σ_1(W_1 x))`: linear layers, each followed by one elementwise
activation. `torch.fx` gives the operations of the forward pass, whether written as modules or as functions; each is
read here as one link of the chain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from leakage_audit.networks import activations
from leakage_audit.networks.activations import IDENTITY, Activation
from leakage_audit.networks.layers import Convolution, Layer, Linear


class UnreadableNetwork(ValueError):
    """The network is no chain of known layers; the message names the operation and the reason."""


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
    nn.ConvTranspose2d: "transposed convolutions are not supported",
    nn.PReLU: "its learned slope is shared by every unit; use LeakyReLU",
}


def read_chain(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Read a classifier as a chain of layers, from the image up.

    Args:
        network: Maps `(B, C, H, W)` to class scores; modules or functions, dropout is read as the identity.
        input_shape: `(C, H, W)` of one image.

    Raises:
        UnreadableNetwork: If an operation is neither convolution, activation, average pooling, flattening, dropout
            nor fully connected, if the data flow branches, or if the last layer is not fully connected.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:  # fx raises many kinds; all mean that the forward pass cannot be followed
        raise UnreadableNetwork(f"the forward pass of {type(network).__name__} cannot be followed: {error}") from error
    reader = _Reader(network, tuple(input_shape))
    for node in graph.nodes:
        reader.read(node)
    if not reader.layers or not isinstance(reader.layers[-1], Linear):
        raise UnreadableNetwork("the last layer must be fully connected: Lemma 3.1 starts there")
    return tuple(reader.layers)


class _Reader:
    """Follows the one tensor that runs through the network."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self.modules = dict(network.named_modules())
        self.shape = shape
        self.layers: list[Layer] = []
        self.data: list[fx.Node] = []  # the nodes that hold image data, in order; the last one is the chain's end
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
        elif isinstance(module, nn.Conv2d):
            self._convolution(name, module)
        elif isinstance(module, nn.Linear):
            self._linear(name, module)
        elif isinstance(module, nn.AvgPool2d):
            if module.divisor_override is not None:
                raise UnreadableNetwork(f"{name}: average pooling with divisor_override is not supported")
            if not module.count_include_pad and _pair(module.padding) != (0, 0):
                raise UnreadableNetwork(f"{name}: average pooling with count_include_pad=False is not supported")
            self._pool(name, module.kernel_size, module.stride, module.padding, module.ceil_mode)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self._adaptive_pool(name, module.output_size)
        elif isinstance(module, nn.Flatten):
            self._flatten(name, module.start_dim, module.end_dim)
        elif not isinstance(module, _PASS):
            reason = _WHY.get(type(module), "no layer system is known for it")
            raise UnreadableNetwork(f"{name} ({type(module).__name__}): {reason}")

    def _function(self, name: str, node: fx.Node) -> None:
        arguments: Sequence[Any] = node.args[1:]
        keywords: Mapping[str, Any] = node.kwargs
        activation = activations.from_function(name, arguments, keywords)
        if activation is not None:
            self._activate(name, activation)
        elif name == "avg_pool2d":
            kernel, stride, padding, ceil, include, divisor = (
                keywords.get(key, arguments[i] if i < len(arguments) else default)
                for i, (key, default) in enumerate(
                    (
                        ("kernel_size", None),
                        ("stride", None),
                        ("padding", 0),
                        ("ceil_mode", False),
                        ("count_include_pad", True),
                        ("divisor_override", None),
                    )
                )
            )
            if divisor is not None or (not include and _pair(padding) != (0, 0)):
                raise UnreadableNetwork(f"{node.name}: average pooling with another divisor is not supported")
            self._pool(node.name, kernel, stride, padding, ceil)
        elif name == "adaptive_avg_pool2d":
            self._adaptive_pool(node.name, arguments[0] if arguments else keywords["output_size"])
        elif name == "flatten":
            start = arguments[0] if arguments else keywords.get("start_dim", 0)
            end = arguments[1] if len(arguments) > 1 else keywords.get("end_dim", -1)
            self._flatten(node.name, start, end)
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

    def _append(self, layer: Layer, out_shape: tuple[int, ...]) -> None:
        if any(layer.name == other.name for other in self.layers):
            raise UnreadableNetwork(f"{layer.name}: used twice; its gradient adds two uses, which no system separates")
        if any(layer.weight is other.weight for other in self.layers):
            raise UnreadableNetwork(f"{layer.name}: its weight is another layer's too; the gradient adds the two uses")
        self.layers.append(layer)
        self.shape, self.activated = out_shape, False

    def _linear(self, name: str, module: nn.Linear) -> None:
        if math.prod(self.shape) != module.in_features or len(self.shape) != 1:
            raise UnreadableNetwork(f"{name}: expects {module.in_features} features, gets {self.shape}: flatten first")
        in_shape = self.layers[-1].out_shape if self.layers and isinstance(self.layers[-1], Convolution) else self.shape
        self._append(Linear(name, module.weight, module.bias, in_shape), (module.out_features,))

    def _convolution(self, name: str, module: nn.Conv2d) -> None:
        if module.padding_mode != "zeros":
            raise UnreadableNetwork(f"{name}: padding_mode {module.padding_mode!r} is not supported, only 'zeros'")
        padding = module.padding
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            if padding == "same" and any(t % 2 for t in total):
                raise UnreadableNetwork(f"{name}: padding 'same' is uneven for kernel {module.kernel_size}")
            padding = tuple(t // 2 if padding == "same" else 0 for t in total)
        self._map(name, module.weight, module.bias, module.stride, padding, module.dilation, module.groups)

    def _pool(self, name: str, kernel: object, stride: object, padding: object, ceil_mode: bool) -> None:
        if len(self.shape) != 3:
            raise UnreadableNetwork(f"{name}: pooling needs feature maps, gets shape {self.shape}")
        (kh, kw), channels = _pair(kernel), self.shape[0]
        stride = _pair(stride if stride else kernel)
        if ceil_mode and any(
            (s + 2 * p - k) % t for s, p, k, t in zip(self.shape[1:], _pair(padding), (kh, kw), stride, strict=True)
        ):
            raise UnreadableNetwork(
                f"{name}: average pooling with ceil_mode over an incomplete window is not supported"
            )
        like = next(
            (parameter for module in self.modules.values() for parameter in module.parameters()), torch.ones(())
        )
        weight = torch.full((channels, 1, kh, kw), 1 / (kh * kw), dtype=like.dtype, device=like.device)
        self._map(name, weight, None, stride, _pair(padding), (1, 1), channels, learned=False)

    def _adaptive_pool(self, name: str, output: object) -> None:
        sizes = [s if o is None else o for s, o in zip(self.shape[1:], _pair(output), strict=True)]
        if any(s % o for s, o in zip(self.shape[1:], sizes, strict=True)):
            raise UnreadableNetwork(f"{name}: pooling {self.shape[1:]} to {tuple(sizes)} has windows of unequal size")
        kernel = tuple(s // o for s, o in zip(self.shape[1:], sizes, strict=True))
        self._pool(name, kernel, kernel, 0, False)

    def _map(
        self,
        name: str,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        learned: bool = True,
    ) -> None:
        if len(self.shape) != 3 or self.shape[0] != weight.shape[1] * groups:
            raise UnreadableNetwork(f"{name}: expects {weight.shape[1] * groups} channels, gets shape {self.shape}")
        geometry = zip(self.shape[1:], weight.shape[2:], stride, padding, dilation, strict=True)
        height, width = ((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in geometry)
        out_shape = (weight.shape[0], height, width)
        if min(height, width) < 1:
            raise UnreadableNetwork(f"{name}: its input {self.shape} is smaller than its kernel")
        pairs = _pair(stride), _pair(padding), _pair(dilation)
        self._append(Convolution(name, weight, bias, *pairs, groups, self.shape, out_shape, learned), out_shape)

    def _flatten(self, name: str, start: int, end: int) -> None:
        if start != 1 or end not in (-1, len(self.shape)):
            raise UnreadableNetwork(f"{name}: only flattening everything but the batch is supported")
        self.shape = (math.prod(self.shape),)


def _pair(value: object) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type, return-value]
