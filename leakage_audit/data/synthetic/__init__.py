"""Ten classes of smooth, coloured, natural-looking pictures, drawn from a seed: a data set that needs no download."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from leakage_audit.data.synthetic import landscapes, subjects
from leakage_audit.data.synthetic.canvas import Canvas

SCENES: dict[str, Callable[[Canvas], None]] = {
    "sea": landscapes.sea,
    "hills": landscapes.hills,
    "forest": landscapes.forest,
    "desert": landscapes.desert,
    "city": landscapes.city,
    "flower": subjects.flower,
    "balloon": subjects.balloon,
    "planet": subjects.planet,
    "fish": subjects.fish,
    "house": subjects.house,
}
SMALLEST = 8  # pixels: below, nothing can be told apart
_AT_ONCE = 1 << 18  # painted pixels in one go; more would fall out of the processor's cache


def draw(scene: str, indices: Sequence[int], size: int = 32, seed: int = 0) -> Tensor:
    """Draw pictures of one class.

    A picture depends on its seed, index and size alone, and looks the same at every size. Torch's and numpy's global
    random streams are left alone.

    Args:
        scene: A name of `SCENES`.
        indices: Which pictures, numbered from 0 without end.
        size: Height and width in pixels.
        seed: Chooses the collection.

    Returns:
        8-bit images `(N, 3, size, size)`, as a file would hold them.

    Raises:
        ValueError: If there is no such scene, the size is below 8, or a seed or index is negative.
    """
    if scene not in SCENES:
        raise ValueError(f"unknown scene {scene!r}; there are {', '.join(SCENES)}")
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST} pixels, got {size}")
    if seed < 0 or any(index < 0 for index in indices):
        raise ValueError(f"seed and indices must not be negative, got seed {seed}, indices {list(indices)}")
    drawn = [torch.empty(0, 3, size, size, dtype=torch.uint8)]
    stride = max(1, _AT_ONCE // (2 * size) ** 2)
    for start in range(0, len(indices), stride):
        canvas = Canvas([np.random.default_rng([seed, index]) for index in indices[start : start + stride]], size)
        SCENES[scene](canvas)
        drawn.append((canvas.finish() * 255).round().to(torch.uint8))
    return torch.cat(drawn)
