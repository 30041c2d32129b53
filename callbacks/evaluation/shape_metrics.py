"""c(M) and the layers' deficiencies cheaply enough for every step: from shapes, as long as no filter is dead.

The rank of a layer's system follows from its shape for generic weights and gradients (docs/method.md: rank = min(n_eff,
|z| + |w| − c_out²)). What makes them degenerate in practice shows in the step's own gradient: filters whose weights or
gradients are zero throughout. So a step without such filters has the ranks of its shapes, and one with them is worth a
closer look.
"""

import torch
from torch import nn

from leakage_audit.measures.architecture import shape_report, shape_reports
from leakage_audit.measures.joint_rank import joint_deficiency
from leakage_audit.measures.security import Security
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.networks.tracing import convolutions_met
from leakage_audit.readings import metric_table as table
from leakage_audit.readings.extraction import short


def shape_metrics(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, float]:
    """The logged names of c(M) and of every convolution's deficiency; without c(M) if the network is no chain.

    Args:
        network: Any image classifier; may be left in another state of its buffers.
        input_shape: `(C, H, W)` of one image.

    Raises:
        ValueError: If the network does not accept images of this shape.
    """
    metrics: dict[str, float] = {}
    try:
        layers = [layer for layer in read_chain(network, input_shape) if isinstance(layer, SpatialLayer)]
        rows = shape_reports(layers)
        metrics[table.C.name] = Security.weigh(rows).c
        metrics[table.JOINT_DEFICIENCY.name] = float(joint_deficiency(layers))
    except UnreadableNetwork:
        rows = [shape_report(layer) for layer in convolutions_met(network, input_shape)]
    for name, row in zip(short([row.name for row in rows]), rows, strict=True):
        metrics[table.LAYER_DEFICIENCY.of(name)] = float(row.deficiency)
    return metrics


def has_dead_filters(module: nn.Module) -> bool:
    """Whether a convolution has a filter whose weights or gradients are zero throughout, or no gradient at all.

    Of a weight that is computed from others (spectral normalisation) no gradient is kept: there the weight decides.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            for tensor in (part.weight, part.weight.grad) if part.weight.is_leaf else (part.weight,):
                if tensor is None or not bool(torch.any(tensor.detach().flatten(1), 1).all()):
                    return True
    return False
