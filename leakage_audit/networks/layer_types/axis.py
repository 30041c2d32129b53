"""One spatial axis of a convolution: which pixels its windows read, and through which taps.

Along an axis, tap t of window p reads pixel `s·p + d·t − padding`. Taps whose offsets agree modulo the stride s read
the same pixels, taps of different *classes* never do: a class is a convolution of its own, of stride one, with some of
the taps. Inside it neighbouring taps lie `step = d / gcd(d, s)` windows apart.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd


@dataclass(frozen=True)
class Axis:
    """What one axis of a convolution looks like from its windows.

    Attributes:
        windows: Number of windows.
        read: Number of pixels that some window reads.
        inside: Whether no window reaches into the padding.
        step: Distance, in windows, of neighbouring taps of a class.
        taps: Number of taps in each class.
        needed: The same, but 1 where a single tap, over all windows, reads every pixel that its class reads.
    """

    windows: int
    read: int
    inside: bool
    step: int
    taps: tuple[int, ...]
    needed: tuple[int, ...]


@lru_cache(maxsize=4096)
def axis(pixels: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """Look at one axis, `pixels` long."""
    windows = (pixels + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    reads = [{stride * p + dilation * t - padding for p in range(windows)} & set(range(pixels)) for t in range(kernel)]
    common = gcd(dilation, stride)
    classes = min(kernel, stride // common)
    of_class = [[reads[t] for t in range(first, kernel, stride // common)] for first in range(classes)]
    return Axis(
        windows=windows,
        read=len(set().union(*reads)),
        inside=all(len(r) == windows for r in reads),
        step=dilation // common,
        taps=tuple(len(c) for c in of_class),
        needed=tuple(1 if set().union(*c) in c else len(c) for c in of_class),
    )
