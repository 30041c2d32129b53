"""Layers' common input from the gradients of their weights, once the derivatives δ at their outputs are known.

`g = Σ_b K(δ_b) h_b` is linear in the inputs h_b of all images of the batch together, and K is the same matrix K₀ for
every channel of a group. Where `[K₀(δ_1) … K₀(δ_B)]` has full column rank its pseudo-inverse gives all inputs, with no
need of the layer's output. A fully connected layer has `K₀ = δᵀ`, with a column for each vector that it is fed, one an
image or the tokens of a transformer; so has a convolution that cuts its input into patches. Several layers that are fed
the same stand below each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.networks.layer_types import SpatialLayer, type_of
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget, OutOfMemory

COPIES = 3  # of K₀ at once: as it is made, scaled, and times a basis
EIGEN = 9  # n³ operations, at the speed of a product, that all eigenvectors of a matrix take; 6 to 8 were measured


@dataclass(frozen=True)
class InputOptions(Checked):
    """When an input counts as found.

    Attributes:
        determined: Singular values of K₀ below this share of the largest count as zero; float32 noise of 1e-7 grows to
            at most 1e-3.
        consistent: Relative residual of `K₀ h = g` above which δ was wrong, or the gradient is too noisy to tell:
            rounding leaves 1e-7, a wrong δ a residual of order one.
        largest: Entries of the largest K₀, 240 MB.
        range: Rows of a gradient with several positions are weighed by their size, which is that of their rounding, but
            for those smaller than this share of the typical one: noise of other kinds is no smaller there.
    """

    determined: float = 1e-4
    consistent: float = 1e-4
    largest: float = 3e7
    range: float = 1e-3

    def __post_init__(self) -> None:
        self.check(positive=("consistent",), not_negative=("largest",), share=("determined", "range"))


@dataclass(frozen=True)
class PartialInput:
    """What is known of an input: `basisᵀ h_c = value_c` for each channel c.

    Attributes:
        value: `(channels, r)`; h itself, the positions of all images in a row, where there is no basis.
        noise: Standard deviation of each entry of `value`.
        basis: The r directions in which every channel is known, `(B · positions, r)`; None where h is known altogether.
        arrangement: Between one image's input and channels × positions.
    """

    value: Tensor
    noise: Tensor
    basis: Tensor | None
    arrangement: Arrangement

    @classmethod
    def whole(cls, value: Tensor, noise: Tensor, arrangement: Arrangement) -> "PartialInput":
        """Of inputs known altogether, `(B, …)`, and the standard deviation of their entries."""
        rows, spread = (torch.cat([arrangement.matrix(one) for one in t], 1) for t in (value, noise))
        return cls(rows, spread, None, arrangement)

    def of(self, h: Tensor) -> Tensor:
        """What `value` would be for other inputs `(B, …)`."""
        h = torch.cat([self.arrangement.matrix(one) for one in h], 1)
        return h if self.basis is None else h @ self.basis

    def by_image(self, values: Tensor) -> Tensor:
        """Values for all positions `(channels, B · positions)`, of an input known altogether, as inputs `(B, …)`."""
        positions = self.arrangement.positions
        return torch.stack([self.arrangement.input(one) for one in values.split(positions, 1)])


@dataclass(frozen=True)
class Reader:
    """A layer that reads the input sought.

    Attributes:
        layer: A convolution or fully connected layer, of a type in `layer_types.MODULES`.
        delta: The derivatives at its output, `(B, c_out, H', W')` or `(B, out)`.
        gradient: Of its weights, summed over the images.
    """

    layer: nn.Module
    delta: Tensor
    gradient: Tensor


def ask_for_normal_equations(budget: Budget, rows: int, unknowns: int) -> None:
    """Go on only if `KᵀK` and its eigenvectors fit in memory and in the time left: nothing can interrupt them.

    Raises:
        OutOfMemory: If they do not fit in memory.
        OutOfTime: If there is not as much time.
    """
    memory = 8 * (COPIES * rows * unknowns + 4 * unknowns**2)
    budget.require("the normal equations of a layer's input", memory, 2 * rows * unknowns**2 + EIGEN * unknowns**3)


def solve_for_input(
    readers: Sequence[Reader],
    shape: tuple[int, ...],
    rounding: float,
    options: InputOptions = InputOptions(),
    budget: Budget | None = None,
) -> tuple[PartialInput | None, float]:
    """Solve `K h = g`.

    Args:
        readers: The layers that are fed the input; the first alone where one has several groups.
        shape: Of one image's input, `(C, H, W)` or `(C,)`.
        rounding: Relative error of the gradients.
        options: When the input counts as found.
        budget: Limits of time and memory; none by default.

    Returns:
        What is known of the input, and the relative residual; no input where the gradient does not fit δ or tells
        nothing, and for layers that are not understood (padding other than with zeros, deficient ones with several
        groups, any too large), which have no residual (NaN).

    Raises:
        OutOfTime: If there is not enough of it.
    """
    budget = budget or Budget()
    options = replace(options, largest=min(options.largest, budget.memory / 8 / COPIES))
    ways = [Arrangement.of(reader.layer, shape) for reader in readers]
    if not ways:
        return None, math.nan
    arrangement = ways[0] if len({way.layout for way in ways}) == 1 else Arrangement(shape)
    systems = [gradient_system(reader, arrangement, options) for reader in readers]
    blocks = [block for block in systems if block is not None]
    if not blocks:
        return None, math.nan
    if any(len(k0) > 1 for k0, _ in blocks):
        blocks = blocks[:1]
    scales = [1 / g.square().mean().sqrt().clamp_min(torch.finfo(g.dtype).tiny) for _, g in blocks]
    rows, unknowns = sum(k.shape[1] for k, _ in blocks), blocks[0][0].shape[2]
    try:
        ask_for_normal_equations(budget, rows, unknowns)
    except OutOfMemory:
        return None, math.nan
    k0 = torch.cat([k * scale for (k, _), scale in zip(blocks, scales, strict=True)], 1)
    g = torch.cat([g * scale for (_, g), scale in zip(blocks, scales, strict=True)], 1)
    return _solve(k0, g, rounding, options, arrangement)


def gradient_system(reader: Reader, arrangement: Arrangement, options: InputOptions) -> tuple[Tensor, Tensor] | None:
    """K₀ `(groups, rows, B · positions)` and g `(groups, rows, channels of a group)`."""
    layer, delta, gradient, shape = reader.layer, reader.delta, reader.gradient, arrangement.shape
    if arrangement.one_block:
        k0 = delta.reshape(-1, delta.shape[-1]).T if isinstance(layer, nn.Linear) else delta.transpose(0, 1).flatten(1)
        if k0.numel() > options.largest:
            return None
        g = gradient.flatten(1)
        typical = float(g.square().mean().sqrt())
        if k0.shape[1] > len(delta) and typical:  # several positions an image
            weights = typical / g.square().mean(1, keepdim=True).sqrt().clamp_min(options.range * typical)
            k0, g = weights * k0, weights * g
        return k0[None], g[None]
    kind = type_of(layer)
    assert kind is not None  # only such are watched
    entries = gradient.numel() // shape[0] * math.prod(shape[1:]) * len(delta)
    if not issubclass(kind, SpatialLayer) or len(shape) != 3 or entries > options.largest or kind.refusal(layer, shape):
        return None
    read = kind.read("", layer, shape, gradient)
    groups = range(len(read.block_places))
    k0 = torch.stack(
        [torch.cat([torch.from_numpy(read.gradient_block(one[None], g)) for one in delta], 1) for g in groups]
    )
    return k0.to(delta), gradient.flatten()[torch.from_numpy(read.block_places).to(gradient.device)]


def _solve(
    k0: Tensor, g: Tensor, rounding: float, options: InputOptions, arrangement: Arrangement
) -> tuple[PartialInput | None, float]:
    """`K₀ (groups, rows, positions)` and `g (groups, rows, channels)` to the channels of all groups in a row."""
    rows = k0.shape[1]
    squares, basis = torch.linalg.eigh(k0.mT @ k0)
    kept = squares > options.determined**2 * squares.amax(1, keepdim=True)
    spare = rows - int(kept.sum(1).max())
    h = basis.mT @ (k0.mT @ g) / squares[..., None].clamp_min(torch.finfo(g.dtype).tiny)  # in the basis
    rest = (g - k0 @ (basis @ h.where(kept[..., None], 0.0))).square().sum(1, keepdim=True)
    residual = math.sqrt(float(rest.sum()) / max(float(g.square().sum()), torch.finfo(g.dtype).tiny))
    if spare > 0 and residual > options.consistent:
        return None, residual
    error = rounding * g.square().mean(1, keepdim=True).sqrt()  # of the gradient's entries, `(groups, 1, channels)`
    if spare > 0:
        error = torch.maximum(error, (rest / spare).sqrt())
    if bool(kept.all()):
        h = basis @ h
        spread = (basis.square() / squares[:, None]).sum(2, keepdim=True).sqrt()
        # δ too is rounded, by the same for every row that it enters: this error does not average out.
        noise = torch.maximum(error * spread, rounding * h.square().mean(1, keepdim=True).sqrt())
        return PartialInput(h.mT.flatten(0, 1), noise.mT.flatten(0, 1), None, arrangement), residual
    known = kept[0]
    if len(k0) > 1 or not known.any():
        return None, residual
    spread = squares[0, known].rsqrt()[:, None]
    return PartialInput(h[0, known].T, (error[0] * spread).T, basis[0][:, known], arrangement), residual
