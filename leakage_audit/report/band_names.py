"""Where a band's name stands in a chart: within its band, and not on a curve where that can be had."""

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]

# Of a chart 520 wide. On a narrow screen the page writes it at 17 px: what is free there is free anywhere.
LETTER, LINE, MARGIN, AROUND = 9.0, 17.0, 6.0, 5.0


def place(
    name: str, stretch: tuple[float, float], across: tuple[float, float], curves: Sequence[Sequence[Point]]
) -> Point:
    """The end of the name's baseline.

    Args:
        name: What is written there.
        stretch: Upper and lower edge of the band, in pixels from the top.
        across: Left and right edge.
        curves: What is not to be written upon, each a polyline in pixels.

    Returns:
        The first that is free of right, left and middle, each at the top and at the bottom; top right if none is.

    Example::

        >>> place("exact", (10.0, 100.0), (44.0, 508.0), [[(44.0, 12.0), (508.0, 12.0)]])
        (502.0, 95.0)
    """
    width, (top, bottom), (left, right) = LETTER * len(name), stretch, across
    ends = (right - MARGIN, left + MARGIN + width, (left + right + width) / 2)
    places = [(x, y) for x in ends for y in (top + 12.0, bottom - AROUND)]
    return next((at for at in places if not _covered(at, width, curves)), places[0])


def _covered(at: Point, width: float, curves: Sequence[Sequence[Point]]) -> bool:
    """Whether a curve, or a mark on it, comes into the box of the words."""
    left, right = at[0] - width - AROUND, at[0] + AROUND
    upper, lower = at[1] - LINE, at[1] + AROUND
    for curve in curves:
        for (x0, y0), (x1, y1) in pairwise([*curve, curve[-1]]):
            start, end = max(x0, left), min(x1, right)
            if start > end:
                continue
            slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
            heights = sorted((y0 + slope * (start - x0), y0 + slope * (end - x0)))
            if heights[1] >= upper and heights[0] <= lower:
                return True
    return False
