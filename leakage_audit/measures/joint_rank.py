"""How many unknowns of the image all equations together determine (docs/method.md, section 3.4, (M15)).

By counting: above the deepest layer D whose system falls short, everything is known; its own rank(u⁽ᴰ⁾) equations and
the gradients of the layers below say something about the image, if generically independent

    rank J = min(n_seen, rank(u⁽ᴰ⁾) + Σ_{i<D} (|w⁽ⁱ⁾| + |b⁽ⁱ⁾|))

`n_seen` counts the pixels that reach the output at all. It is not n where a stride leaves inputs unread *anywhere on
the way*: CNN4 V2's second convolution never reads the last row and column of its 28 × 28 input, so the last row and
column of the image (63 pixels of 3 channels) move nothing, and its joint deficiency is −189, not 0.
"""

from collections.abc import Sequence
from math import prod

import torch

from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.measures.structural import structural_rank
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.observation import Observation
from leakage_audit.solvers.gaussian_update import rank


def counted_joint_rank(convolutions: Sequence[SpatialLayer]) -> int:
    """rank J by counting; an upper bound where the equations are not independent.

    Args:
        convolutions: A chain's, from the image up, below fully connected layers.
    """
    if not convolutions:
        return 0
    seen = seen_inputs(convolutions)
    for i in range(len(convolutions) - 1, -1, -1):
        layer = convolutions[i]
        own = structural_rank(layer).rank
        if own < prod(layer.in_shape):
            below = [c for c in convolutions[:i] if c.learned]
            return min(seen, own + sum(c.weight.numel() + (0 if c.bias is None else len(c.bias)) for c in below))
    return seen


def joint_deficiency(convolutions: Sequence[SpatialLayer]) -> int:
    """rank J − unknowns by counting, never positive; 0 without convolutions (Lemma 3.1 alone gives the image).

    Args:
        convolutions: As in `counted_joint_rank`.
    """
    return counted_joint_rank(convolutions) - prod(convolutions[0].in_shape) if convolutions else 0


def seen_inputs(convolutions: Sequence[SpatialLayer]) -> int:
    """Number of the image's entries that reach the top of the chain."""
    rows, columns = (set(range(size)) for size in convolutions[-1].out_shape[1:])
    for layer in reversed(convolutions):
        rows, columns = (layer.reads(i, needed) for i, needed in ((0, rows), (1, columns)))
    return convolutions[0].in_shape[0] * len(rows) * len(columns)


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
