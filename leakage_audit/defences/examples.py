"""Filters as other people write them, to try `leakage-audit filter` on."""

from torch import Tensor

from leakage_audit.defences.sparse_vector import SparseVector


def keep_large(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the smaller half of each gradient's entries to zero.

    >>> import torch
    >>> keep_large({"w": torch.tensor([1.0, -3.0, 2.0])})["w"]
    tensor([ 0., -3.,  2.])
    """
    return {name: g.masked_fill(g.abs() < g.abs().median(), 0) for name, g in gradients.items()}


class SparseVector2022(SparseVector):
    """The sparse-vector filter as a federated framework released it in 2022, with its defaults.

    >>> SparseVector2022().clear_leftovers
    True
    """

    def __init__(self) -> None:
        super().__init__(clear_leftovers=True)
