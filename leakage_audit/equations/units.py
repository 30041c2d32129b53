"""Which unit, an output channel or a neuron, each equation is about."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def numbered(names: Sequence[str], sizes: Sequence[int], units: Sequence[Tensor | None]) -> Tensor:
    """The unit of each equation, `(m,)`, counted over all layers; a block without units is one.

    Args:
        names: Of the blocks; weight and bias of a layer have their units in common.
        sizes: Number of equations of each block.
        units: Of each block, within its layer.
    """
    owners: list[object] = [
        i if own is None else name.rpartition(".")[0] for i, (name, own) in enumerate(zip(names, units, strict=True))
    ]
    within = [torch.zeros(n, dtype=torch.long) if own is None else own for n, own in zip(sizes, units, strict=True)]
    most: dict[object, int] = {}
    for owner, of_block in zip(owners, within, strict=True):
        most[owner] = max(most.get(owner, 0), int(of_block.max()) + 1 if len(of_block) else 0)
    first = dict(zip(most, accumulate(most.values(), initial=0), strict=False))
    return torch.cat([first[owner] + of_block for owner, of_block in zip(owners, within, strict=True)])


def units_of(gradient: Tensor) -> Tensor:
    """The output channel of each entry of a parameter's gradient, `(entries,)`: its place along the first axis.

    >>> units_of(torch.zeros(2, 3, 1))
    tensor([0, 0, 0, 1, 1, 1])
    """
    rows = gradient.reshape(len(gradient) if gradient.ndim else 1, -1)
    return torch.arange(len(rows)).repeat_interleave(rows.shape[1])
