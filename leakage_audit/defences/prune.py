"""Pruning: only the largest entries are shared (Lin et al. 2018, "Deep gradient compression")."""

import math
from typing import Literal

import torch
from torch import Tensor

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.shared import Shared, below, hidden


class Prune(Mechanism):
    """Keep the entries of largest magnitude, put all others to zero.

    Args:
        share: Of the entries that is kept, rounded up; 1 keeps all.
        by: `whole`: the largest of all parameters together; `layer`: of each parameter.

    Raises:
        ValueError: If a setting is out of its range.

    >>> shared = Prune(0.5)(Shared.of({"w": torch.tensor([1.0, -3.0, 2.0, 0.5])}), torch.Generator())
    >>> shared.gradients["w"], shared.error["w"]
    (tensor([ 0., -3.,  2.,  0.]), tensor([0.7906, 0.0000, 0.0000, 0.7906]))
    """

    is_noise = False

    def __init__(self, share: float = 0.1, by: Literal["whole", "layer"] = "whole") -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        if by not in ("whole", "layer"):
            raise ValueError(f"by must be whole or layer, got {by!r}")
        self.share, self.by = share, by

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Prune."""
        if self.share == 1:
            return shared
        sizes = {name: g.abs() for name, g in shared.gradients.items()}
        whole = _threshold(torch.cat([a.flatten() for a in sizes.values()]), self.share)
        least = {k: whole if self.by == "whole" else _threshold(a.flatten(), self.share) for k, a in sizes.items()}
        dropped = {k: a < least[k] for k, a in sizes.items()}
        kept = {k: g.masked_fill(dropped[k], 0) for k, g in shared.gradients.items()}
        error = {k: hidden(g, kept[k], dropped[k]) for k, g in shared.gradients.items()}
        known = {k: below(kept[k], dropped[k], shared.error[k], float(least[k])) for k in kept}
        return shared.changed(kept, error, intervals=known)


def _threshold(sizes: Tensor, share: float) -> Tensor:
    """The smallest magnitude that is kept."""
    return sizes.topk(math.ceil(share * sizes.numel())).values[-1]
