"""The paper's measure of an architecture's exposure, c(M), and the layer table behind it.

    c(M) = Σ_{i=1..d} (d − (i − 1))/d · (rank(u⁽ⁱ⁾) − n_i)        (12)

Zero means that every layer's system determines its input; the more negative, the more secure.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from leakage_audit.factor import TOLERANCE, Factor
from leakage_audit.network import read_chain
from leakage_audit.observation import Observation
from leakage_audit.sweep import sweep
from leakage_audit.system import LayerSystem


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
    """

    name: str
    unknowns: int
    equations: int
    rank: int
    deficiency: int
    weight: float | None
    condition: float | None


@dataclass(frozen=True)
class Security:
    """c(M) and the layers it sums over, from the image up.

    Attributes:
        c: c(M); zero or negative.
        layers: The layer table.
    """

    c: float
    layers: tuple[LayerReport, ...]

    @classmethod
    def weigh(cls, layers: Sequence[LayerReport]) -> "Security":
        """c(M) of layers, from the image up, whose weights are yet to be set."""
        d = len(layers)
        weighed = tuple(replace(layer, weight=(d - i) / d) for i, layer in enumerate(layers))
        # Summed as integers: sixths and thirds of a deficiency would not add up to the exact figure.
        return cls(sum((d - i) * layer.deficiency for i, layer in enumerate(layers)) / max(d, 1), weighed)

    def as_dict(self) -> dict:
        """The same as plain numbers, for JSON."""
        return {"c": self.c, "layers": [asdict(layer) for layer in self.layers]}


def security_metric(seen: Observation, tolerance: float = TOLERANCE) -> Security:
    """Rank every convolution's system at the observed weights and gradients, and weigh the deficiencies (12).

    Args:
        seen: What leaked.
        tolerance: Singular values below this share of the largest count as zero.

    Raises:
        UnreadableNetwork: If the network is no chain of known, invertible layers.
        ValueError: If the gradients hold nothing (see `Observation.problem`).
    """
    problem = seen.problem()
    if problem is not None:
        raise ValueError(problem)
    seen = seen.to(torch.float64)
    chain = read_chain(seen.network, seen.input_shape)
    found: list[tuple[LayerSystem, Factor]] = []

    def solve(system: LayerSystem, i: int) -> Tensor:
        factor = Factor(system, tolerance)
        found.insert(0, (system, factor))
        return factor.pseudo_inverse(system.v)

    sweep(chain, seen, solve)
    return Security.weigh(
        [report(system.layer.name, system, factor.rank, factor.condition) for system, factor in found]
    )


def report(name: str, system: LayerSystem, rank: int, condition: float | None) -> LayerReport:
    """A row without its weight."""
    return LayerReport(name, system.n, system.equations, rank, rank - system.n, None, condition)
