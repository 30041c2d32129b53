"""The rank of a layer system from its shape alone: by the layer type's own proofs, else by a random instance.

A minor that does not vanish at one (w, ∂L/∂z) vanishes almost nowhere, so that the rank of one random instance is that
of generic ones (docs/method.md, sections 3.1 and 3.2). Groups of channels share neither inputs nor equations: one of
them is tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch

from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.networks.layer_types.base import SpatialLayer
from leakage_audit.options import Checked

Places = tuple[frozenset[int], frozenset[int]]


@dataclass(frozen=True)
class StructuralRank:
    """A layer system's rank for generic weights and gradients.

    Attributes:
        rank: The rank.
        read: Number of inputs that some output depends on; the rank is never larger.
        how: What makes it certain: a proof (`few windows`, `tall`, `wide`, `pooling`), `instance` (the rank of a random
            instance), or `counted` (a bound, not proved for this shape and too large to try).
    """

    rank: int
    read: int
    how: str


@dataclass(frozen=True)
class InstanceOptions(Checked):
    """How a random instance is ranked.

    Attributes:
        largest: Rows of the smaller Gram matrix up to which an instance is worth its seconds.
        largest_svd: Size up to which singular values, which tell small from zero best, cost little.
        tolerance_svd: Singular values below this share of the largest count as zero where they are computed; rounding
            leaves 1e-15 or so.
        tolerance: The same where a Gram matrix is factored, which tells none smaller.
    """

    largest: int = 3000
    largest_svd: int = 500
    tolerance_svd: float = 1e-11
    tolerance: float = 1e-7

    def __post_init__(self) -> None:
        self.check(share=("tolerance_svd", "tolerance"))


def structural_rank(
    layer: SpatialLayer,
    shared: bool = True,
    options: InstanceOptions | None = None,
    reached: Places | None = None,
) -> StructuralRank:
    """The generic rank of a layer's u, or the exact one of a pooling's.

    Args:
        layer: The layer; only its shapes count.
        shared: Whether the filters' gradient is seen; without it K has no rows.
        options: For layers that no proof covers.
        reached: The rows and columns of the output that the scores depend on; all by default. ∂L/∂z is zero elsewhere,
            so that K has fewer rows that differ, and of the proofs only `tall`, which needs no K, holds.
    """
    options, found = options or InstanceOptions(), layer.rank_bound(shared)
    _, rows, columns = layer.out_shape
    if reached is not None and (len(reached[0]), len(reached[1])) == (rows, columns):
        reached = None
    if found.proof and (reached is None or not shared or found.proof in ("tall", "pooling")):
        return StructuralRank(found.rank, found.read, found.proof)
    if reached is not None:
        found = replace(found, rank=min(found.rank, _bound_of(layer, len(reached[0]) * len(reached[1]))))
    one = layer.one_group()
    if min(prod(one.in_shape), prod(one.out_shape) + one.weight.numel()) > options.largest:
        return StructuralRank(found.rank, found.read, "counted")
    own = ("name", "weight", "bias", "activation")
    geometry = tuple((f.name, getattr(one, f.name)) for f in fields(one) if f.name not in own)
    kind: Any = type(one)  # which mypy takes for unhashable, as a dataclass with __eq__ would be
    rank = _instance_rank(kind, geometry, tuple(one.weight.shape), shared, options, reached)
    return StructuralRank(layer.groups * rank, found.read, "instance")


def reached_outputs(convolutions: Sequence[SpatialLayer]) -> list[Places]:
    """The rows and columns of each layer's output that the top of the chain depends on, from the image up.

    Args:
        convolutions: A chain's, from the image up, below fully connected layers.
    """
    rows, columns = (_reached_along(convolutions, axis) for axis in (0, 1))
    return list(zip(rows, columns, strict=True))


def _reached_along(convolutions: Sequence[SpatialLayer], axis: int) -> list[frozenset[int]]:
    places = [frozenset(range(convolutions[-1].out_shape[1 + axis]))] if convolutions else []
    for layer in reversed(convolutions[1:]):
        places.insert(0, frozenset(layer.reads(axis, set(places[0]))))
    return places


def _bound_of(layer: SpatialLayer, places: int) -> int:
    """(*) of `convolution_rank`, q·P + r·(t − q) a group, where ∂L/∂z is not zero at so many places only."""
    filters, taps = layer.out_shape[0] // layer.groups, layer.weight.numel() // layer.out_shape[0]
    q, r = min(filters, taps), min(filters, places)
    return layer.groups * (q * prod(layer.out_shape[1:]) + r * (taps - q))


@lru_cache(maxsize=1024)
def _instance_rank(
    kind: Any,  # the layer type
    geometry: tuple[tuple[str, Any], ...],
    weight_shape: tuple[int, ...],
    shared: bool,
    options: InstanceOptions,
    reached: Places | None,
) -> int:
    generator = torch.Generator().manual_seed(0)
    out_shape = dict(geometry)["out_shape"]
    weight, dz = (torch.randn(s, dtype=torch.float64, generator=generator) for s in (weight_shape, out_shape))
    if reached is not None:
        zeroed = torch.zeros(out_shape[1:], dtype=torch.float64)
        zeroed[np.ix_(sorted(reached[0]), sorted(reached[1]))] = 1
        dz = dz * zeroed
    layer = kind("", weight, None, **dict(geometry))
    system = LayerSystem(layer, dz, torch.zeros_like(dz), weight if shared else None)
    if min(system.n, system.equations) <= options.largest_svd:
        return int(np.linalg.matrix_rank(system.matrix(), rtol=options.tolerance_svd))
    return Factor(system, options.tolerance).rank
