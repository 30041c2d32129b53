"""The layer table behind c(M): a row a layer, as numbers and as a table in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table


@dataclass(frozen=True)
class LayerReport:
    """One row of the layer table.

    Attributes:
        name: The layer's path in the network.
        unknowns: n_i, entries of its input.
        equations: Rows of u⁽ⁱ⁾.
        rank: rank(u⁽ⁱ⁾).
        deficiency: rank − unknowns, never positive.
        weight: (d − (i − 1))/d, the layer's weight in c(M); None where there is no c(M).
        condition: Smallest non-zero over largest singular value of u⁽ⁱ⁾, its two blocks brought to equal size; None
            where only shapes are known.
        expected: The rank that the layer's shape promises.
        way: How the rank was found.
        gap: Smallest singular value that counts over the largest that does not; None if all count.
        remark: What is unusual about the layer at this step: zero filters, dead channels, saturated units.
    """

    name: str
    unknowns: int
    equations: int
    rank: int
    deficiency: int
    weight: float | None
    condition: float | None
    expected: int
    way: str
    gap: float | None = None
    remark: str = ""

    @property
    def degenerate(self) -> bool:
        """Whether the rank is less than the shape promises."""
        return self.rank < self.expected


def layer_table(layers: Sequence[LayerReport], title: str | None = None) -> Table:
    """The rows as a table, from the image up."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=max([5, *(min(len(x.name), 24) for x in layers)]))
    for heading in ("unknowns", "equations", "rank", "deficiency", "weight", "condition"):
        table.add_column(heading, justify="right")
    for layer in layers:
        weight, condition = ("–" if value is None else f"{value:.2g}" for value in (layer.weight, layer.condition))
        numbers = (layer.unknowns, layer.equations, layer.rank, layer.deficiency)
        table.add_row(layer.name, *map(str, numbers), weight, condition)
    return table
