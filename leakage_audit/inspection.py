"""What an architecture gives away, before any training: the layer table from shapes, and a sentence about it."""

import copy
from dataclasses import asdict, dataclass
from math import prod

import torch
import torch.nn.functional as F
from rich.console import Group, RenderableType
from rich.table import Table
from torch import nn

from leakage_audit.factor import Factor
from leakage_audit.layers import Convolution, Layer
from leakage_audit.network import UnreadableNetwork, read_chain
from leakage_audit.probe import systems_at
from leakage_audit.security import LayerReport, Security
from leakage_audit.structural import structural_rank
from leakage_audit.tracing import convolutions_met


@dataclass(frozen=True)
class Inspection:
    """The layer table of a network and what it means.

    Attributes:
        network: The network's name.
        c: c(M) for generic weights and gradients; None if the network is no chain, so that it has none.
        layers: The layer table, from the image up. Ranks follow from shapes; a condition is that of the network's
            present weights on a random image.
        verdict: What the table says, in a sentence.
        problem: Why the network could not be read as a chain; empty if it could.
    """

    network: str
    c: float | None
    layers: tuple[LayerReport, ...]
    verdict: str
    problem: str = ""

    def as_dict(self) -> dict:
        """The same as plain numbers and strings, for JSON."""
        return {
            "variant": self.network,
            "c": self.c,
            "layers": [asdict(layer) for layer in self.layers],
            "verdict": self.verdict,
            "problem": self.problem,
        }

    def __rich__(self) -> RenderableType:
        table = Table(title=self.network, title_justify="left", caption_justify="left")
        for heading in ("layer", "unknowns", "equations", "rank", "deficiency", "weight", "condition"):
            left = heading == "layer"
            table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
        for layer in self.layers:
            weight, condition = ("–" if value is None else f"{value:.3g}" for value in (layer.weight, layer.condition))
            numbers = (layer.unknowns, layer.equations, layer.rank, layer.deficiency)
            table.add_row(layer.name, *map(str, numbers), weight, condition)
        lines = [] if self.c is None else [f"c(M) = {self.c:.6g}"]
        return Group(table, *lines, *([self.problem] if self.problem else []), self.verdict)


def inspect_network(network: nn.Module, input_shape: tuple[int, int, int], name: str = "") -> Inspection:
    """Rank every convolution's system from shapes alone, and say what that means.

    A network that cannot be read as a chain still gets a table: each convolution that an image meets, ranked as if
    its output were known.

    Args:
        network: Any image classifier; it is not touched.
        input_shape: `(C, H, W)` of one image.
        name: What to call it; its class by default.

    Raises:
        ValueError: If the network does not accept images of this shape.
    """
    name = name or type(network).__name__
    network = copy.deepcopy(network).double().eval().requires_grad_()
    met = convolutions_met(network, input_shape)
    try:
        chain = read_chain(network, input_shape)
    except UnreadableNetwork as error:
        unweighed = tuple(shape_report(layer) for layer in met)
        return Inspection(name, None, unweighed, _verdict_without_chain(unweighed), f"no c(M): {error}")
    convolutions = [layer for layer in chain if isinstance(layer, Convolution)]
    rows = [shape_report(layer, condition) for layer, condition in zip(convolutions, _conditions(chain), strict=True)]
    security = Security.weigh(rows)
    return Inspection(name, security.c, security.layers, _verdict(security))


def shape_report(layer: Convolution, condition: float | None = None) -> LayerReport:
    """A row of the layer table from a convolution's shapes, without its weight."""
    n, equations = prod(layer.in_shape), prod(layer.out_shape) + (layer.weight.numel() if layer.learned else 0)
    found = structural_rank(layer)
    way = f"shape ({found.how})"
    return LayerReport(layer.name, n, equations, found.rank, found.rank - n, None, condition, found.rank, way)


def _conditions(chain: tuple[Layer, ...]) -> list[float]:
    first = chain[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *first.in_shape, dtype=torch.float64, generator=generator)
    systems = systems_at(chain, x, torch.zeros(1, dtype=torch.long), F.cross_entropy)
    return [Factor(system).condition for system in systems]


def _verdict(security: Security) -> str:
    short = [layer for layer in security.layers if layer.deficiency < 0]
    if not security.layers:
        return "No convolution: the fully connected layers alone give the image away exactly (Lemma 3.1)."
    if not short:
        return "Every layer's system determines its input: with batch size 1 the image leaks exactly."
    deepest, first = short[-1], security.layers[0]
    text = f"{deepest.name} leaves {-deepest.deficiency} of its {deepest.unknowns} unknowns open"
    if first.deficiency < 0 and first is not deepest:
        text += f" and {first.name} {-first.deficiency} of {first.unknowns}"
    elif first.deficiency == 0:
        text += f"; {first.name} would determine the image if its output were known"
    return text + ": layer by layer the image leaks in part."


def _verdict_without_chain(rows: tuple[LayerReport, ...]) -> str:
    full = [row.name for row in rows if row.deficiency == 0]
    return (
        f"{len(full)} of {len(rows)} convolutions would determine their input if their output were known; how far the"
        " walk back from the output gets is not known, so attacks that match gradients are the measure here."
    )
