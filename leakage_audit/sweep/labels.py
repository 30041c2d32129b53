"""Labels beside points of a plot, none on another or on a point, as far as there is room."""

from collections.abc import Sequence

from matplotlib.axes import Axes

LETTER, LINE = 4.2, 8.0  # width of a digit and height of a line, in points, at this size of letters
SIZE = 7
AWAY = (5.0, 11.0, 18.0)  # distances at which a label is tried, in points
DIRECTIONS = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))

Box = tuple[float, float, float, float]


def label_apart(
    axes: Axes, marks: Sequence[tuple[float, float, str, str]], others: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each mark's text where there is room beside it.

    Args:
        axes: Laid out already.
        marks: Place in the data's units, text and colour of each.
        others: Further points that no text shall cover.
    """
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]  # pixels to points
    places = [tuple(scale * axes.transData.transform(at[:2])) for at in [*marks, *others]]
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    for (x, y), (left, low, text, colour) in zip(places, marks, strict=False):
        width = LETTER * len(text)
        tried = [_box(x + away * dx, y + away * dy, width, dx) for away in AWAY for dx, dy in DIRECTIONS]
        box = min(tried, key=lambda found: sum(_overlap(found, other) for other in taken))
        taken.append(box)
        axes.annotate(
            text, (left, low), (box[0] - x, box[1] - y), fontsize=SIZE, color=colour, textcoords="offset points"
        )


def _box(x: float, y: float, width: float, side: float) -> Box:
    """Of a text that stands to the right of a place, to its left, or around it."""
    left = x - width * (1 - side) / 2
    return left, y - LINE / 2, left + width, y + LINE / 2


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share.

    >>> _overlap((0, 0, 2, 2), (1, 1, 3, 3)), _overlap((0, 0, 1, 1), (2, 2, 3, 3))
    (1, 0)
    """
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
