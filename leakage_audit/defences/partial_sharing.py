"""Partial sharing: only some parameters' gradients leave the machine."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from leakage_audit.defences.base import DefenceError, Mechanism
from leakage_audit.defences.shared import Shared

LORA = ("*lora_*",)  # how peft names the matrices of low-rank adaptation


class PartialSharing(Mechanism):
    """Share the gradients of some parameters and no others; the others are frozen, or personal.

    Args:
        keep: Patterns (`*`, `?`) of names that are shared; `head` stands for the layer that is defined last, `lora` for
            the matrices of low-rank adaptation.
        drop: Patterns of names that are not, even if `keep` has them; the same words.

    Raises:
        ValueError: If no pattern is given to keep.

    >>> gradients = {"conv.weight": torch.ones(2), "fc.weight": torch.ones(2), "fc.bias": torch.ones(1)}
    >>> list(PartialSharing("head")(Shared.of(gradients), torch.Generator()).gradients)
    ['fc.weight', 'fc.bias']
    >>> list(PartialSharing(drop=["*.bias"])(Shared.of(gradients), torch.Generator()).gradients)
    ['conv.weight', 'fc.weight']
    """

    def __init__(self, keep: str | Sequence[str] = "*", drop: str | Sequence[str] = ()) -> None:
        self.keep, self.drop = _listed(keep), _listed(drop)
        if not self.keep:
            raise ValueError("keep must name at least one pattern")

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Leave the others out.

        Raises:
            DefenceError: If nothing is left.
        """
        names = list(shared.gradients)
        kept = [name for name in names if _matches(name, self.keep, names) and not _matches(name, self.drop, names)]
        if not kept:
            raise DefenceError(f"PartialSharing keeps none of {', '.join(names)} (keep {self.keep}, drop {self.drop})")
        return shared.renamed({name: name for name in kept})


def _matches(name: str, patterns: Sequence[str], names: Sequence[str]) -> bool:
    head = names[-1].rpartition(".")[0]
    for pattern in patterns:
        if pattern == "head" and name.rpartition(".")[0] == head:
            return True
        if any(fnmatchcase(name, one) for one in (LORA if pattern == "lora" else (pattern,))):
            return True
    return False


def _listed(patterns: str | Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)
