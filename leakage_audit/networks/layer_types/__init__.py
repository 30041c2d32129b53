"""The types of layers that a chain may consist of: one file and one row each."""

from torch import nn

from leakage_audit.networks.layer_types.average_pooling import AveragePooling
from leakage_audit.networks.layer_types.base import Layer, RankBound, SpatialLayer, UnreadableNetwork
from leakage_audit.networks.layer_types.convolution import Convolution
from leakage_audit.networks.layer_types.linear import Linear
from leakage_audit.networks.layer_types.transposed_convolution import TransposedConvolution

MODULES: dict[type[nn.Module], type[Layer]] = {
    nn.Conv2d: Convolution,
    nn.ConvTranspose2d: TransposedConvolution,
    nn.Linear: Linear,
    nn.AvgPool2d: AveragePooling,
    nn.AdaptiveAvgPool2d: AveragePooling,
}

# Functions that take, after the input, what a module's constructor takes.
FUNCTIONS: dict[str, type[nn.Module]] = {"avg_pool2d": nn.AvgPool2d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d}


def type_of(module: nn.Module) -> type[Layer] | None:
    """The layer type that a module is of; None if there is none."""
    return next((kind for module_type, kind in MODULES.items() if isinstance(module, module_type)), None)


__all__ = [
    "FUNCTIONS",
    "MODULES",
    "AveragePooling",
    "Convolution",
    "Layer",
    "Linear",
    "RankBound",
    "SpatialLayer",
    "TransposedConvolution",
    "UnreadableNetwork",
    "type_of",
]
