"""What a change of the architecture would do, by counting: another stride, fewer or more channels, a larger kernel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from leakage_audit.measures.joint_rank import joint_deficiency
from leakage_audit.networks.layers import Convolution


@dataclass(frozen=True)
class ArchitectureChange:
    """A changed architecture.

    Attributes:
        change: What was changed, in words.
        joint_deficiency: Of the changed architecture, by counting.
    """

    change: str
    joint_deficiency: int


def architecture_changes(convolutions: Sequence[Convolution]) -> list[ArchitectureChange]:
    """Single changes that leave more of the image open, the most effective first.

    Args:
        convolutions: A chain's, from the image up.
    """
    if not convolutions:
        return []
    now = joint_deficiency(convolutions)
    found = []
    for i, layer in enumerate(convolutions):
        for change, other in _changes(layer):
            rebuilt = _rebuilt([*convolutions[:i], other, *convolutions[i + 1 :]])
            if rebuilt is not None:
                found.append(ArchitectureChange(f"{layer.name} with {change}", joint_deficiency(rebuilt)))
    better = [v for v in found if v.joint_deficiency < now]
    return sorted(better, key=lambda v: v.joint_deficiency)


def _changes(layer: Convolution) -> Iterator[tuple[str, Convolution]]:
    if not layer.learned or layer.groups > 1:
        return
    c_out, c_in, *kernel = layer.weight.shape
    stride = layer.stride[0] + 1, layer.stride[1] + 1
    yield f"stride {stride[0]}", replace(layer, stride=stride)
    if c_out > 1:
        half = torch.empty(c_out // 2, c_in, *kernel, device="meta")
        yield (
            f"{c_out // 2} channels",
            replace(layer, weight=half, bias=None if layer.bias is None else half[:, 0, 0, 0]),
        )


def _rebuilt(convolutions: Sequence[Convolution]) -> list[Convolution] | None:
    """The same layers with shapes that fit again; None if they no longer can."""
    shape = convolutions[0].in_shape
    found = []
    for layer in convolutions:
        c_out, c_in, *kernel = layer.weight.shape
        if not layer.learned:
            c_out, c_in = shape[0], 1
        elif layer.groups == 1:
            c_in = shape[0]
        elif c_in * layer.groups != shape[0]:
            return None
        geometry = zip(shape[1:], kernel, layer.stride, layer.padding, layer.dilation, strict=True)
        height, width = ((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in geometry)
        if min(height, width) < 1:
            return None
        weight = torch.empty(c_out, c_in, *kernel, device="meta")
        groups = layer.groups if layer.learned else shape[0]
        out_shape = (c_out, height, width)
        found.append(replace(layer, weight=weight, groups=groups, in_shape=shape, out_shape=out_shape))
        shape = out_shape
    return found
