"""What a factoring of a layer system would take, from its shapes alone, so that it is not begun where it does not fit.

Counts are of the largest arrays that are held at once, in numbers of eight bytes, and of the dense products and
factorizations, which take all but a small part of the time.
"""

from dataclasses import dataclass
from math import prod

from leakage_audit.layerwise.layer_system import LayerSystem

SPARSE = 6  # numbers of eight bytes that an entry of a sparse matrix takes while it is put together
PIVOTED = 4  # a factorization with pivoting runs at about this much less than the speed of a product


@dataclass(frozen=True)
class Cost:
    """Of one operation.

    Attributes:
        memory: Bytes.
        flops: Floating point operations.
    """

    memory: float
    flops: float


def block_cholesky_cost(system: LayerSystem) -> Cost:
    """Of `BlockTridiagonalCholesky` and one solve with it: rows of WᵀW, their blocks, their factor."""
    channels, height, width = system.layer.in_shape
    reach = _reach(system)
    high, row = max(1, reach - 1), channels * width
    blocks = -(-height // high)
    rows, held = reach * height * row**2, 4 * blocks * (high * row) ** 2
    solve = Cost(0.0, 0.0)
    if system.gradient is not None:
        equations = system.gradient.numel()
        if 4 * equations > system.n:
            solve = _dense(system, system.n)
        else:
            solve = Cost(8 * (3 * equations * system.n + 2 * equations**2), 2 * equations * system.n * (2 * row * high))
    return Cost(8 * (rows + held) + solve.memory, 10 / 3 * blocks * (high * row) ** 3 + solve.flops)


def deflated_cholesky_cost(system: LayerSystem) -> Cost:
    """Of `DeflatedCholesky`: uuᵀ, what is added to it, and its null vectors twice."""
    size, null = system.equations, 0
    if system.gradient is not None:
        null = system.layer.out_shape[0] ** 2 // system.layer.groups
    dense = _dense(system, size)
    return Cost(dense.memory + 8 * (size**2 + 4 * size * null), dense.flops + 2 * size**2 * null + 4 * size * null**2)


def pivoted_cholesky_cost(system: LayerSystem) -> Cost:
    """Of `PivotedCholesky`: the smaller Gram matrix, and the places of half its entries."""
    size = min(system.n, system.equations)
    dense = _dense(system, size)
    return Cost(dense.memory + 8 * 2 * size**2, PIVOTED * dense.flops)


def product_cost(system: LayerSystem) -> Cost:
    """Of `u x`: windows of the input."""
    taps, places = prod(system.weight.shape[2:]), prod(system.layer.out_shape[1:])
    windows = system.layer.in_shape[0] * taps * places
    return Cost(8 * (windows + 2 * (system.n + system.equations)), 4 * windows * system.layer.out_shape[0])


def _dense(system: LayerSystem, size: int) -> Cost:
    """Of a dense Gram matrix and its Cholesky factor, with the sparse W and the block of K that it is made of."""
    taps, places = prod(system.weight.shape[2:]), prod(system.layer.out_shape[1:])
    entries = system.weight.numel() * places
    block = 0 if system.gradient is None else system.layer.out_shape[0] * taps * prod(system.layer.in_shape[1:])
    return Cost(8 * (2 * size**2 + SPARSE * entries + 2 * block), size**3 / 3)


def _reach(system: LayerSystem) -> int:
    """Rows of pixels that a window spans."""
    layer = system.layer
    dilation = getattr(layer, "dilation", (1, 1))[0]
    kernel = getattr(layer, "kernel", None)
    rows = kernel[0] if kernel is not None else system.weight.shape[2]
    return min(dilation * (rows - 1) + 1, layer.in_shape[1])
