"""What an architecture gives away, before any training: the layer table from shapes, and sentences about it."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod

import torch
import torch.nn.functional as F
from rich.console import Group, RenderableType
from rich.text import Text
from torch import nn

from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.recursion import check_invertible
from leakage_audit.measures.architecture_changes import architecture_changes
from leakage_audit.measures.joint_rank import joint_deficiency
from leakage_audit.measures.layer_table import LayerReport, layer_table
from leakage_audit.measures.probe_systems import systems_at
from leakage_audit.measures.security import Security
from leakage_audit.measures.structural import Places, reached_outputs, structural_rank
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.networks.layer_types import Layer, SpatialLayer
from leakage_audit.networks.tracing import convolutions_met
from leakage_audit.runtime import single_blas


@dataclass(frozen=True)
class Inspection:
    """The layer table of a network and what it means.

    Attributes:
        network: The network's name.
        c: c(M) for generic weights and gradients; None if the network is no chain, so that it has none.
        joint_deficiency: rank − unknowns of all equations together, by counting; None likewise, and where an activation
            cannot be inverted, so that not all of them are known.
        layers: The layer table, from the image up. Ranks follow from shapes; a condition is that of the network's
            present weights on a random image.
        verdict: What the table says.
        suggestions: What changes would do.
        problem: What the layer-wise walk cannot get through, and why; empty if nothing stops it.
    """

    network: str
    c: float | None
    joint_deficiency: int | None
    layers: tuple[LayerReport, ...]
    verdict: str
    suggestions: tuple[str, ...] = ()
    problem: str = ""

    def as_dict(self) -> dict:
        """The same as plain numbers and strings, for JSON."""
        rest = {key: value for key, value in asdict(self).items() if key not in ("network", "c", "layers")}
        layers = [asdict(layer) for layer in self.layers]
        return {"variant": self.network, "c": self.c, "layers": layers, **rest}

    def __rich__(self) -> RenderableType:
        lines = [Text(self.problem)] if self.problem else []
        if self.c is not None:
            joint = "" if self.joint_deficiency is None else f", joint deficiency = {self.joint_deficiency}"
            lines.append(Text(f"c(M) = {self.c:.6g}{joint}"))
        lines.append(Text(self.verdict))
        return Group(layer_table(self.layers, self.network), *lines, *(Text(f"· {text}") for text in self.suggestions))


def inspect_network(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    name: str = "",
    suggestions: int = 3,
    largest_probe: int = 15000,
) -> Inspection:
    """Rank every convolution's system from shapes alone, and say what that means.

    A network that cannot be read as a chain still gets a table: each convolution that an image meets, ranked as if
    its output were known.

    Args:
        network: Any image classifier; it is not touched.
        input_shape: `(C, H, W)` of one image.
        name: What to call it; its class by default.
        suggestions: Most changes that are proposed.
        largest_probe: Unknowns of a layer up to which its condition is worth its seconds.

    Returns:
        The layer table and what it means.

    Example:
        >>> from leakage_audit.models import build
        >>> found = inspect_network(build("cnn2_v2"), (3, 32, 32))
        >>> found.c, found.joint_deficiency, found.layers[0].rank
        (-1470.0, -1470, 1602)

    Raises:
        ValueError: If the network does not accept images of this shape.
    """
    name = name or type(network).__name__
    network = copy.deepcopy(network).double().cpu().eval().requires_grad_()
    met = convolutions_met(network, input_shape)
    try:
        chain = read_chain(network, input_shape)
    except UnreadableNetwork as error:
        rows = tuple(shape_report(layer) for layer in met)
        return Inspection(name, None, None, rows, _without_chain(rows), problem=f"No c(M): {error}.")
    try:
        check_invertible(chain)
        problem = ""
    except UnreadableNetwork as error:
        problem = f"{error}."
    convolutions = [layer for layer in chain if isinstance(layer, SpatialLayer)]
    security = Security.weigh(shape_reports(convolutions, _conditions(chain, largest_probe)))
    if problem:
        verdict = "The ranks hold for known inputs of the activations; the walk back stops before it knows them."
        return Inspection(name, security.c, None, security.layers, verdict, problem=problem)
    unknowns = prod(input_shape)
    joint = joint_deficiency(convolutions)
    changes = tuple(
        f"{v.change} would leave {-v.joint_deficiency} of {unknowns} unknowns of the image open, not {-joint}"
        for v in architecture_changes(convolutions)[:suggestions]
    )
    return Inspection(name, security.c, joint, security.layers, _verdict(security.layers, joint, unknowns), changes)


def shape_reports(
    convolutions: Sequence[SpatialLayer], conditions: Sequence[float | None] | None = None
) -> list[LayerReport]:
    """The rows of a chain's layer table from its shapes, without their weights."""
    found = conditions or [None] * len(convolutions)
    return [shape_report(*row) for row in zip(convolutions, found, reached_outputs(convolutions), strict=True)]


def shape_report(layer: SpatialLayer, condition: float | None = None, reached: Places | None = None) -> LayerReport:
    """A row of the layer table from a convolution's shapes, without its weight; `reached` as in `structural_rank`."""
    n, equations = prod(layer.in_shape), prod(layer.out_shape) + (layer.weight.numel() if layer.learned else 0)
    found = structural_rank(layer, reached=reached)
    way = f"shape ({found.how})"
    return LayerReport(layer.name, n, equations, found.rank, found.rank - n, None, condition, found.rank, way)


def _conditions(chain: Sequence[Layer], largest: int) -> list[float | None]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *chain[0].in_shape, dtype=torch.float64, generator=generator)
    systems = systems_at(chain, x, torch.zeros(1, dtype=torch.long), F.cross_entropy)
    with single_blas():
        return [Factor(system).condition if system.n <= largest else None for system in systems]


def _verdict(layers: Sequence[LayerReport], joint: int, unknowns: int) -> str:
    if not layers:
        return "No convolution: the fully connected layers give the image away exactly (Lemma 3.1)."
    short = [layer for layer in layers if layer.deficiency < 0]
    if not short:
        return "Every layer determines its input: with batch size 1 the image leaks exactly."
    parts = " and ".join(f"{layer.name} leaves {-layer.deficiency} of {layer.unknowns}" for layer in reversed(short))
    begin = f"Layer by layer, {parts} unknowns open."
    if layers[0].deficiency == 0:
        begin += f" {layers[0].name} would determine the image if its output were known."
    if joint == 0:
        return f"{begin} All equations together are enough to determine the image."
    share = (unknowns + joint) / unknowns
    return f"{begin} All equations together determine {share:.0%} of the image; the rest is left to a prior."


def _without_chain(rows: Sequence[LayerReport]) -> str:
    full = sum(row.deficiency == 0 for row in rows)
    return (
        f"{full} of {len(rows)} convolutions would determine their input if their output were known. How much of that"
        " an attacker gets to know, only an attack tells: joint and cosine_tv need no chain."
    )
