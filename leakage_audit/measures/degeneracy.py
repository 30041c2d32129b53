"""Why a layer's system may have less rank than its shape promises, at this step's weights and gradients."""

import torch
from torch import Tensor

from leakage_audit.layerwise.layer_system import LayerSystem


def remark(system: LayerSystem, tolerance: float, saturated: float = 1e-3, notable: float = 0.01) -> str:
    """Zero filters, dead channels, saturation, zero gradient: what is unusual about a layer, or nothing.

    Args:
        system: The layer's `u x = v`.
        tolerance: Share of the largest below which a norm or singular value counts as zero.
        saturated: σ′, over its largest value in the layer, below which a unit counts as saturated: it then weakens δ
            below the least singular value that otherwise counts (1e-2).
        notable: Share of saturated units worth a remark.
    """
    w, dz = system.weight.flatten()[torch.from_numpy(system.layer.filter_places)], system.dz[0].flatten(1)
    if not dz.any():
        return "no gradient reaches it"
    found = []
    for what, rows in (("zero filters", w), ("dead channels, which no gradient reaches", dz)):
        silent = _below(rows.norm(dim=1), tolerance)
        if silent:
            found.append(f"{what}: {_listed(silent)}")
        elif not system.layer.learned:
            continue  # all filters of a pooling are alike
        else:
            rank = sum(_rank(part, tolerance) for part in rows.chunk(system.layer.groups))
            most = min(len(rows), rows.shape[1] * system.layer.groups)
            if rank < most:
                found.append(f"{'filters' if rows is w else 'derivatives'} of rank {rank} instead of {most}")
    slope = system.layer.activation.derivative(system.z).abs()
    share = float((slope < saturated * slope.max()).double().mean())
    if share > notable:
        found.append(f"{share:.0%} of its {system.layer.activation.name} units are saturated")
    return "; ".join(found)


def _below(norms: Tensor, tolerance: float) -> list[int]:
    return [k for k, small in enumerate((norms <= tolerance * norms.max()).tolist()) if small]


def _rank(rows: Tensor, tolerance: float) -> int:
    return int(torch.linalg.matrix_rank(rows.double(), rtol=tolerance))


def _listed(channels: list[int]) -> str:
    shown = ", ".join(map(str, channels[:8]))
    return shown if len(channels) <= 8 else f"{shown} and {len(channels) - 8} more"
