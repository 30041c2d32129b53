"""What a change of the architecture would do, by counting: another stride, fewer or more channels, a larger kernel."""

from collections.abc import Sequence
from dataclasses import dataclass

from leakage_audit.measures.joint_rank import joint_deficiency
from leakage_audit.networks.layer_types import SpatialLayer


@dataclass(frozen=True)
class ArchitectureChange:
    """A changed architecture.

    Attributes:
        change: What was changed, in words.
        joint_deficiency: Of the changed architecture, by counting.
    """

    change: str
    joint_deficiency: int


def architecture_changes(convolutions: Sequence[SpatialLayer]) -> list[ArchitectureChange]:
    """Single changes that leave more of the image open, the most effective first.

    Args:
        convolutions: A chain's, from the image up.
    """
    if not convolutions:
        return []
    now = joint_deficiency(convolutions)
    found = []
    for i, layer in enumerate(convolutions):
        for change, other in layer.variations() if layer.learned else ():
            rebuilt = _rebuilt([*convolutions[:i], other, *convolutions[i + 1 :]])
            if rebuilt is not None:
                found.append(ArchitectureChange(f"{layer.name} with {change}", joint_deficiency(rebuilt)))
    better = [v for v in found if v.joint_deficiency < now]
    return sorted(better, key=lambda v: v.joint_deficiency)


def _rebuilt(convolutions: Sequence[SpatialLayer]) -> list[SpatialLayer] | None:
    """The same layers with shapes that fit again; None if they no longer can."""
    found: list[SpatialLayer] = []
    for layer in convolutions:
        rebuilt = layer.rebuilt(found[-1].out_shape if found else layer.in_shape)
        if rebuilt is None:
            return None
        found.append(rebuilt)
    return found
