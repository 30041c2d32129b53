"""Curves thinned to what can be drawn."""

import math

POINTS = 500  # a curve is drawn a few hundred pixels wide


def thin(points: list[tuple[int, float]], limit: int = POINTS) -> list[tuple[int, float]]:
    """At most about `limit` points that keep every peak: the lowest and the highest of each stretch of steps.

    Args:
        points: Step and value in any order; where a step has several, the last counts. Values that are not finite are
            left out.
        limit: How many to keep.
    """
    kept = sorted((step, value) for step, value in dict(points).items() if math.isfinite(value))
    if len(kept) <= limit:
        return kept
    width = -(-2 * len(kept) // limit)
    thinned = []
    for start in range(0, len(kept), width):
        stretch = kept[start : start + width]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        thinned += sorted(ends)
    return sorted({kept[0], *thinned, kept[-1]})
