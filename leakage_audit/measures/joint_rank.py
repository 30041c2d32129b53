"""How many unknowns of the image all equations together determine (docs/method.md, section 3.4, (M15)).

By counting, from the output down to the image. Let R_i be how many directions of layer i's input all equations from
there up determine. Lemma 3.1 gives the input of the fully connected layers whole; below,

    R_i = min(n_i, rank(u⁽ⁱ⁾), R_{i+1} + |w⁽ⁱ⁾| + |b⁽ⁱ⁾|, Σ_g q m + min(c, m) (t − q)),    q = min(c, t)

where n_i counts the inputs that reach the top of the chain, and m the places of layer i's output that do (of the
poolings that take it without an activation in between, if there are any: ∂L/∂z has no more freedom than there); entries
that stand in padding only count nowhere. c and t are the filters of one group of channels and their taps. Each term is
an upper bound. The second: the derivative of all these equations in x⁽ⁱ⁾ lies in the row space of u⁽ⁱ⁾. The third
counts the equations of the layer's own gradients. The fourth is the layer's own count of ranks for the outputs that
matter: given these and their ∂L/∂z, the bias' gradient says nothing new, and c of the equations of each filter's
weights follow by (M12). A pooling has no equations of its own.

For generic weights the least of these bounds is the rank, unless two convolutions follow each other with no activation
between them (their gradients are those of one convolution), or a padding as wide as its kernel feeds a pooling: there
the count is only an upper bound.

`n_i` is not the number of all inputs where a stride leaves some unread *anywhere on the way*: CNN4 V2's second
convolution never reads the last row and column of its 28 × 28 input, so the last row and column of the image (63 pixels
of 3 channels) move nothing, and its joint deficiency is −189, not 0.
"""

from collections.abc import Sequence
from math import prod

import torch

from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.measures.structural import structural_rank
from leakage_audit.networks.activations import IDENTITY
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.observation import Observation
from leakage_audit.solvers.gaussian_update import rank


def counted_joint_rank(convolutions: Sequence[SpatialLayer]) -> int:
    """rank J by counting; an upper bound, and the rank itself for generic weights.

    Args:
        convolutions: A chain's, from the image up, below fully connected layers.
    """
    if not convolutions:
        return 0
    reaching = reaching_entries(convolutions)
    known = reaching[-1]
    for i in range(len(convolutions) - 1, -1, -1):
        layer = convolutions[i]
        own, with_outputs = 0, reaching[i + 1]
        if layer.learned:
            own = layer.weight.numel() + (0 if layer.bias is None else len(layer.bias))
            filters, taps = layer.out_shape[0] // layer.groups, layer.weight.numel() // layer.out_shape[0]
            places = reaching[_linear_end(convolutions, i)] // layer.out_shape[0]
            q, r = min(filters, taps), min(filters, places)
            with_outputs = layer.groups * (q * places + r * (taps - q))
        bounds = (reaching[i], structural_rank(layer).rank, known + own, with_outputs)
        known = min(bounds)
    return known


def _linear_end(convolutions: Sequence[SpatialLayer], i: int) -> int:
    """Where the poolings end that take layer i's output as it is: ∂L/∂z of the layer has no more freedom than there."""
    end = i + 1
    while end < len(convolutions) and not convolutions[end].learned and convolutions[end - 1].activation == IDENTITY:
        end += 1
    return end


def joint_deficiency(convolutions: Sequence[SpatialLayer]) -> int:
    """rank J − unknowns by counting, never positive; 0 without convolutions (Lemma 3.1 alone gives the image).

    Args:
        convolutions: As in `counted_joint_rank`.
    """
    return counted_joint_rank(convolutions) - prod(convolutions[0].in_shape) if convolutions else 0


def seen_inputs(convolutions: Sequence[SpatialLayer]) -> int:
    """Number of the image's entries that reach the top of the chain."""
    return reaching_entries(convolutions)[0]


def reaching_entries(convolutions: Sequence[SpatialLayer]) -> list[int]:
    """How many entries of each layer's input reach the top of the chain, from the image up; last, those of the output.

    Entries that are the same for every image, as they stand in padding only, do not count.
    """
    rows, columns = (_reaching(convolutions, axis) for axis in (0, 1))
    channels = [layer.in_shape[0] for layer in convolutions] + [convolutions[-1].out_shape[0]]
    return [c * len(r) * len(k) for c, r, k in zip(channels, rows, columns, strict=True)]


def _reaching(convolutions: Sequence[SpatialLayer], axis: int) -> list[set[int]]:
    """The places along an axis that depend on the image and that the output depends on, likewise."""
    depending = [set(range(convolutions[0].in_shape[1 + axis]))]
    for layer in convolutions:
        places = range(layer.out_shape[1 + axis])
        depending.append({place for place in places if layer.reads(axis, {place}) & depending[-1]})
    reaching = [depending[-1]]
    for layer, here in zip(reversed(convolutions), reversed(depending[:-1]), strict=True):
        reaching.insert(0, layer.reads(axis, reaching[0]) & here)
    return reaching


def joint_rank(seen: Observation, memory_gb: float = 1.0, seed: int = 0, tolerance: float = 1e-6) -> int:
    """rank J in fact, at a random image: every equation that the walk back leaves, differentiated.

    Args:
        seen: What leaked from one image.
        memory_gb: Memory that the passes may take.
        seed: Of the random image.
        tolerance: Singular values below this share of the largest count as zero: the same ranks from 1e-6 to 1e-12
            (docs/method.md, section 3.4); a Gram matrix tells none smaller.

    Raises:
        UnreadableNetwork: If the network is no chain that the walk can go back through.
        ValueError: If the gradients hold nothing.
    """
    problem = seen.problem()
    if problem is not None:
        raise ValueError(problem)
    equations = peel_layers(seen.to(torch.float64), relative_error_of(seen.dtype))
    low, high = seen.value_range
    draw = torch.rand(equations.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    image = (low + (high - low) * draw).to(seen.device)
    return rank(equations.linearize(image, memory_gb * 1e9)[1], tolerance)
