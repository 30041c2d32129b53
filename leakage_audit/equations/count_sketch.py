"""Fewer equations that say as much: random signed sums of many entries (docs/method.md, section 5.5, (M34))."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from leakage_audit.equations.base import Block, rms
from leakage_audit.equations.units import units_of
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

    Args:
        entries: Of the vector.
        k: Number of sums.
        generator: Draws them.
        kept: Places of the entries that count; all by default.
        units: Unit that each entry belongs to, `(entries,)` and ascending: no sum is of two of them, where there are as
            many sums as units. By default all belong together.

    Attributes:
        units: Unit that each sum belongs to, `(k,)`; None where sums are of several.

    >>> sketch = CountSketch(100, 10, torch.Generator().manual_seed(0))
    >>> sketch(torch.ones(100)).shape, len(CountSketch(3, 10, torch.Generator()))
    (torch.Size([10]), 3)
    """

    def __init__(
        self,
        entries: int,
        k: int,
        generator: torch.Generator,
        kept: Tensor | None = None,
        units: Tensor | None = None,
    ) -> None:
        if units is not None and kept is not None:
            units = units[kept]
        self._kept, entries = kept, entries if kept is None else len(kept)
        self._k, self.units = min(k, entries), units
        self._bucket: Tensor | None = None
        if k < entries:
            present, sizes = (torch.zeros(1), [entries]) if units is None else _runs(units)
            if len(sizes) > k:
                present, sizes, self.units = torch.zeros(1), [entries], None
            shares = shared_out(sizes, k)
            if self.units is not None:
                self.units = present.repeat_interleave(torch.tensor(shares))
            # As even as can be: a sum of few entries counts for as much as one of many.
            first = accumulate(shares, initial=0)
            runs = zip(first, shares, sizes, strict=False)
            self._bucket = torch.cat([f + torch.randperm(size, generator=generator) % k for f, k, size in runs])
            self._sign = torch.randint(0, 2, (entries,), generator=generator).double() * 2 - 1

    def __len__(self) -> int:
        return self._k

    def __call__(self, *parts: Tensor) -> Tensor:
        """The sums `(k,)` of a vector of any shape, or of one that comes in parts.

        Parts are not made into one: a graph of that would copy the whole for each of them.

        >>> sketch, vector = CountSketch(6, 2, torch.Generator().manual_seed(0)), torch.arange(6.0)
        >>> bool((sketch(*vector.split([1, 3, 2])) == sketch(vector)).all())
        True
        """
        flat = [part.flatten() for part in parts]
        if self._kept is not None:
            flat = [torch.cat(flat)[self._kept.to(flat[0].device)]]
        if self._bucket is None:
            return torch.cat(flat)
        sizes = [len(part) for part in flat]
        total = torch.zeros(self._k, dtype=flat[0].dtype, device=flat[0].device)
        for part, bucket, sign in zip(flat, self._bucket.split(sizes), self._sign.split(sizes), strict=True):
            total = total.index_add(0, bucket.to(part.device), part * sign.to(part))
        return total

    def noise(self, std: Tensor) -> Tensor:
        """Standard deviation of each sum, given that of each entry."""
        variance = std.flatten().square()
        variance = variance if self._kept is None else variance[self._kept.to(variance.device)]
        if self._bucket is None:
            return variance.sqrt()
        sums = torch.zeros(self._k, dtype=variance.dtype, device=variance.device)
        return sums.index_add(0, self._bucket.to(variance.device), variance).sqrt()


def sketch_gradients(
    gradients: Mapping[str, Tensor],
    total: int,
    relative_error: float,
    seed: int,
    noise: Mapping[str, Tensor] | None = None,
) -> tuple[list[CountSketch], list[Block]]:
    """Gradients as blocks of about `total` equations in all, and the sums that make them.

    Args:
        gradients: By name.
        total: Equations to keep; each gradient keeps at least one.
        relative_error: Of a gradient's entry, as a standard deviation.
        seed: Of the sums.
        noise: Standard deviation of each entry beyond that, by name; entries with an infinite one are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = noise or {}
    told = {name: noise[name].flatten().isfinite().nonzero()[:, 0] for name in gradients if name in noise}
    sizes = [len(told[name]) if name in told else g.numel() for name, g in gradients.items()]
    kept = shared_out(sizes, max(total, len(gradients)))
    sketches = [
        CountSketch(g.numel(), k, generator, told.get(name), units_of(g))
        for (name, g), k in zip(gradients.items(), kept, strict=True)
    ]
    blocks = []
    for s, size, (name, g) in zip(sketches, sizes, gradients.items(), strict=True):
        # A sum of entries with random signs grows like the root of their number, and so does its noise.
        std: Tensor | float = relative_error * rms(g) * math.sqrt(size / max(len(s), 1))
        if name in noise:
            std = s.noise(noise[name].to(g)).hypot(g.new_tensor(std))
        blocks.append(Block(name, s(g), std, s.units))
    return sketches, blocks


def _runs(units: Tensor) -> tuple[Tensor, list[int]]:
    """The units that there are, and how many entries each has."""
    present, sizes = units.unique_consecutive(return_counts=True)
    return present, sizes.tolist()


def shared_out(sizes: list[int], total: int) -> list[int]:
    """Give each block its size, or an even share of `total` where that is less."""
    given = dict.fromkeys(range(len(sizes)), 0)
    left = total
    for place, (i, size) in enumerate(sorted(enumerate(sizes), key=lambda item: item[1])):
        given[i] = min(size, max(1, left // (len(sizes) - place)))
        left -= given[i]
    return [given[i] for i in range(len(sizes))]
