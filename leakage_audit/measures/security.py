"""The paper's measure of an architecture's exposure, c(M), and the layer table behind it.

    c(M) = Σ_{i=1..d} (d − (i − 1))/d · (rank(u⁽ⁱ⁾) − n_i)        (12)

Zero means that every layer's system determines its input; the more negative, the more secure.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any

import torch
from rich.console import Console, Group, RenderableType
from rich.text import Text
from torch import Tensor

from leakage_audit.layerwise.factorization import Factor, tolerance_for
from leakage_audit.layerwise.gram_factors import FactorOptions
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.layerwise.recursion import check_invertible, sweep
from leakage_audit.measures.degeneracy import remark
from leakage_audit.measures.joint_rank import joint_deficiency
from leakage_audit.measures.layer_table import LayerReport, layer_table
from leakage_audit.measures.structural import InstanceOptions, Places, reached_outputs, structural_rank
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.options import Checked, recorded
from leakage_audit.runtime import Budget, OverBudget, single_blas


@dataclass(frozen=True)
class SecurityOptions(Checked):
    """How the layers' systems are ranked.

    Attributes:
        tolerance: Singular values below this share of the largest count as zero; None takes ten times the rounding of
            the gradients' type (see `factorization.tolerance_for`).
        saturated: σ′, over its largest value in the layer, below which a unit counts as saturated (see `degeneracy`).
        notable: Share of saturated units worth a remark.
        change: Size of the generic change that an input of a pooling gets, over the entry that it changes: small enough
            that activations can be inverted, large enough to be no rounding.
        factor: How the systems are factored.
        instance: How a random instance tells the rank that a shape promises, where no proof does.
    """

    tolerance: float | None = None
    saturated: float = 1e-3
    notable: float = 0.01
    change: float = 0.1
    factor: FactorOptions = field(default_factory=FactorOptions)
    instance: InstanceOptions = field(default_factory=InstanceOptions)

    def __post_init__(self) -> None:
        self.check(
            not_negative=("saturated", "notable", "change"), share=() if self.tolerance is None else ("tolerance",)
        )


@dataclass(frozen=True)
class Security:
    """c(M) and the layers it sums over, from the image up.

    Attributes:
        c: c(M); zero or negative.
        layers: The layer table.
        joint_deficiency: rank − unknowns of all equations together, by counting (see `measures.joint_rank`); None where
            it was not counted.
        options: How the layers were ranked, the tolerance as it was for these gradients; None where shapes told.
        counted: Why c is a count of shapes and not of ranks found, in a sentence; empty if all ranks were found.
    """

    c: float
    layers: tuple[LayerReport, ...]
    joint_deficiency: int | None = None
    options: SecurityOptions | None = None
    counted: str = ""

    @classmethod
    def weigh(cls, layers: Sequence[LayerReport]) -> "Security":
        """c(M) of layers, from the image up, whose weights are yet to be set."""
        d = len(layers)
        weighed = tuple(replace(layer, weight=(d - i) / d) for i, layer in enumerate(layers))
        # Summed as integers: sixths and thirds of a deficiency would not add up to the exact figure.
        return cls(sum((d - i) * layer.deficiency for i, layer in enumerate(layers)) / max(d, 1), weighed)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, for JSON."""
        layers, options = [asdict(layer) for layer in self.layers], recorded(self.options)
        found = {"c": self.c, "joint_deficiency": self.joint_deficiency, "layers": layers, "options": options}
        return found | ({"counted": self.counted} if self.counted else {})

    @property
    def line(self) -> str:
        """c(M) and the joint deficiency in one line."""
        joint = "" if self.joint_deficiency is None else f", joint deficiency = {self.joint_deficiency}"
        return f"c(M) = {self.c:.6g}{joint}"

    def __rich__(self) -> RenderableType:
        return Group(layer_table(self.layers), Text(self.line))

    def __str__(self) -> str:
        console = Console(width=100, color_system=None)
        with console.capture() as said:
            console.print(self)
        return "\n".join(row.rstrip() for row in said.get().splitlines()).strip("\n")


def security_metric(
    seen: Observation,
    tolerance: float | None = None,
    options: SecurityOptions | None = None,
    budget: Budget | None = None,
) -> Security:
    """Rank every convolution's system at the observed weights and gradients, and weigh the deficiencies (12).

    The walk goes from the output to the image. A system that would take more time or memory than there is ends it, as
    the layers below need its solution: their ranks and its own are then counted from shapes, and `counted` says so.

    Args:
        seen: What leaked.
        tolerance: In place of the options' own.
        options: How the systems are ranked.
        budget: Limits of time and memory; none by default.

    Returns:
        c(M) and the layer table.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> found = security_metric(observe(models.build("cnn2_v2", image_size=12), torch.rand(3, 12, 12), 3))
        >>> found.c, [(layer.name, layer.rank, layer.unknowns) for layer in found.layers]
        (-30.0, [('conv1', 402, 432)])

    Raises:
        UnreadableNetwork: If the network is no chain of known, invertible layers.
        ValueError: If the gradients hold nothing (see `Observation.problem`).
    """
    problem = seen.problem()
    if problem is not None:
        raise ValueError(problem)
    options = options or SecurityOptions()
    tolerance = options.tolerance if tolerance is None else tolerance
    tolerance = tolerance_for(seen.dtype) if tolerance is None else tolerance
    used = replace(options, tolerance=tolerance)
    budget, chain = budget or Budget(), read_chain(seen.network, seen.input_shape)
    check_invertible(chain)
    convolutions = [layer for layer in chain if isinstance(layer, SpatialLayer)]
    reached = reached_outputs(convolutions)
    found: list[LayerReport] = []
    counted = ""

    def solve(system: LayerSystem, i: int) -> Tensor:
        factor = Factor(system, tolerance, used.factor, budget)
        remarks = remark(system, tolerance, used.saturated, used.notable)
        row = report(factor, remarks, used.instance, reached[len(reached) - 1 - len(found)])
        # The image itself is not needed.
        x = factor.pseudo_inverse(system.v) if i else torch.zeros(system.n, dtype=system.z.dtype).to(system.z)
        found.insert(0, row)
        return x if system.layer.learned or i == 0 else _generic(x, factor, used.change)

    try:
        with in_double_precision(seen, budget) as exact, single_blas():
            sweep(read_chain(exact.network, exact.input_shape), exact, solve)
    except OverBudget as reason:
        left = convolutions[: len(convolutions) - len(found)]
        shared = [seen.gradient_of(layer.name, "weight") is not None for layer in left]
        found = [count(*row) for row in zip(left, shared, reached, strict=False)] + found
        names = ", ".join(layer.name for layer in left)
        counted = f"counted from the shapes of {names}, not from their ranks: {reason}"
    joint = None if budget.exhausted else joint_deficiency(convolutions)
    return replace(Security.weigh(found), joint_deficiency=joint, options=used, counted=counted)


def count(layer: SpatialLayer, shared: bool, reached: Places | None = None) -> LayerReport:
    """A row without its weight, from shapes alone: the rank for generic weights and gradients, or a bound for it.

    Args:
        layer: The layer.
        shared: Whether the gradient of its weights is seen.
        reached: See `structural_rank`.
    """
    shared = shared and layer.learned
    found = structural_rank(
        layer, shared, InstanceOptions(largest=0), reached
    )  # a random instance would take time, too
    n = prod(layer.in_shape)
    return LayerReport(
        name=layer.name,
        unknowns=n,
        equations=prod(layer.out_shape) + (layer.weight.numel() if shared else 0),
        rank=found.rank,
        deficiency=found.rank - n,
        weight=None,
        condition=None,
        expected=found.rank,
        way=f"counted from shapes ({found.how})",
        remark="its rank was counted from its shape, not found",
    )


def _generic(x: Tensor, factor: Factor, size: float) -> Tensor:
    """An input of a pooling with the same output as x, but not the smoothest.

    The least-norm input is constant in each window. The layer below would get a gradient as constant, whose system has
    a lower rank than that of any image; a minor that does not vanish at one input vanishes almost nowhere.

    Args:
        x: The least-norm input.
        factor: Of the pooling.
        size: Of the change, over the entry that it changes.
    """
    draw = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    return x + factor.project(size * x.abs() * draw.to(x.device))


def report(
    factor: Factor, remarks: str, instance: InstanceOptions | None = None, reached: Places | None = None
) -> LayerReport:
    """A row without its weight."""
    system = factor.system
    return LayerReport(
        name=system.layer.name,
        unknowns=system.n,
        equations=system.equations,
        rank=factor.rank,
        deficiency=factor.rank - system.n,
        weight=None,
        condition=factor.condition,
        expected=structural_rank(system.layer, system.gradient is not None, instance, reached).rank,
        way=factor.way,
        gap=factor.gap,
        remark=remarks,
    )
