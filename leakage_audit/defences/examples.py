"""Filters as other people write them, to try `leakage-audit filter` on."""

from torch import Tensor


def keep_large(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the smaller half of each gradient's entries to zero.

    >>> import torch
    >>> keep_large({"w": torch.tensor([1.0, -3.0, 2.0])})["w"]
    tensor([ 0., -3.,  2.])
    """
    return {name: g.masked_fill(g.abs() < g.abs().median(), 0) for name, g in gradients.items()}
