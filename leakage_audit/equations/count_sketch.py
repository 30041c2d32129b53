"""Fewer equations that say as much: random signed sums of many entries (docs/method.md, section 5.5, (M34))."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.equations.base import Block, rms
from leakage_audit.options import Checked


@dataclass(frozen=True)
class SketchOptions(Checked):
    """How many equations are kept.

    Attributes:
        plenty: Equations an unknown: generic full rank, and a condition near that of all of them.
        seed: Of the sums.
    """

    plenty: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.check(positive=("plenty",), not_negative=("seed",))


class CountSketch:
    """`k` sums of a vector's entries, each entry in one of them with a random sign; the identity if k is no less.

    >>> sketch = CountSketch(100, 10, torch.Generator().manual_seed(0))
    >>> sketch(torch.ones(100)).shape, len(CountSketch(3, 10, torch.Generator()))
    (torch.Size([10]), 3)
    """

    def __init__(self, entries: int, k: int, generator: torch.Generator) -> None:
        self._k = min(k, entries)
        self._bucket: Tensor | None = None
        if k < entries:
            # As even as can be: a sum of few entries counts for as much as one of many.
            self._bucket = torch.randperm(entries, generator=generator) % k
            self._sign = torch.randint(0, 2, (entries,), generator=generator).double() * 2 - 1

    def __len__(self) -> int:
        return self._k

    def __call__(self, values: Tensor) -> Tensor:
        """The sums of `values`, of any shape, `(k,)`."""
        values = values.flatten()
        if self._bucket is None:
            return values
        signed = values * self._sign.to(values)
        return torch.zeros(self._k, dtype=values.dtype, device=values.device).index_add(
            0, self._bucket.to(values.device), signed
        )


def sketch_gradients(
    gradients: Mapping[str, Tensor], total: int, relative_error: float, seed: int
) -> tuple[list[CountSketch], list[Block]]:
    """Gradients as blocks of about `total` equations in all, and the sums that make them.

    Args:
        gradients: By name.
        total: Equations to keep; each gradient keeps at least one.
        relative_error: Of a gradient's entry, as a standard deviation.
        seed: Of the sums.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = _share_out([g.numel() for g in gradients.values()], max(total, len(gradients)))
    sketches = [CountSketch(g.numel(), k, generator) for g, k in zip(gradients.values(), kept, strict=True)]
    blocks = [
        # A sum of entries with random signs grows like the root of their number, and so does its noise.
        Block(name, s(g), relative_error * rms(g) * math.sqrt(g.numel() / len(s)))
        for s, (name, g) in zip(sketches, gradients.items(), strict=True)
    ]
    return sketches, blocks


def _share_out(sizes: list[int], total: int) -> list[int]:
    """Give each block its size, or an even share of `total` where that is less."""
    given = dict.fromkeys(range(len(sizes)), 0)
    left = total
    for place, (i, size) in enumerate(sorted(enumerate(sizes), key=lambda item: item[1])):
        given[i] = min(size, max(1, left // (len(sizes) - place)))
        left -= given[i]
    return [given[i] for i in range(len(sizes))]
